"""The dimensionality of well-known crystals, as textbooks and papers state it."""

from __future__ import annotations

import numpy as np
import pytest

from crystalign.physics.coordination import bonds
from crystalign.physics.dimensionality import NAMES, dimensionality

LAYERED = """
mp-48 graphite, mp-984 BN, mp-7991 BN, mp-157 black phosphorus, mp-104 antimony, mp-23152 bismuth, mp-2815 MoS2,
mp-1821 WSe2, mp-22693 WTe2, mp-2207 NbSe2, mp-2156 TiS2, mp-1690 TaS2, mp-602 MoTe2, mp-762 PtS2, mp-782 PdTe2,
mp-567259 CdI2, mp-22893 PbI2, mp-23210 MgCl2, mp-22881 CdCl2, mp-22849 BiI3, mp-25469 AlCl3, mp-27455 YCl3,
mp-23204 FeCl3, mp-23232 FeBr3, mp-28117 VCl3, mp-34202 Bi2Te3, mp-541837 Bi2Se3, mp-1201 Sb2Te3, mp-691 SnSe,
mp-2242 GeS, mp-700 GeSe, mp-2231 SnS, mp-665 SnSe2, mp-1170 SnS2, mp-1943 GaSe, mp-2507 GaS, mp-20485 InSe,
mp-20830 In2Se3, mp-641 As2S3, mp-909 As2Se3, mp-8613 MnPS3, mp-22965 BiTeI, mp-23192 HgI2, mp-1391 Ag2F, mp-2686 Ca2N,
mp-540828 FeOCl, mp-25279 V2O5, mp-20589 MoO3, mp-2097 SnO, mp-19921 litharge, mp-542791 ZrNCl, mp-541911 HfNCl,
mp-30247 brucite, mp-23879 portlandite, mp-27540 Al(OH)3, mp-24992 lepidocrocite, mp-696497 talc, mp-541152 kaolinite,
mp-22526 LiCoO2, mp-25411 LiNiO2, mp-9615 LiTiS2, mp-546552 KCrO2, mp-28930 KC8, mp-1206211 CaC6, mp-1103990 EuC6,
mp-4596 Sr2RuO4, mp-5532 Sr2TiO4, mp-2910 KAlF4, mp-555855 Bi-2212, mp-20674 YBa2Cu3O7, mp-550722 Tl2Ba2CuO6,
mp-19735 La2CuO4, mp-36480 La2CuO4, mp-21326 La2NiO4, mp-19434 Pr2NiO4, mp-4158 Nd2CuO4, mp-6548 K2La2Ti3O10,
mp-6514 NaLaTiO4, mp-23480 Bi2WO6, mp-23064 Bi2MoO6, mp-23427 Bi4Ti3O12, mp-19366 LuFe2O4,
mp-568961 BaFe2As2, mp-20890 EuFe2As2, mp-21471 LiFeAs, mp-22152 NaFeAs, mp-20311 FeSe, mp-20349 SmFeAsO,
mp-22491 PrFeAsO, mp-622621 NdFeAsO, mp-510668 LaFePO, mp-549589 LaZnAsO, mp-20807 SrFeAsF, mp-6088 LaCuOS,
mp-552488 LaCuSeO, mp-23116 BiCuSeO, mp-552098 Bi2O2Se, mp-4547 La2O2Te, mp-4511 La2O2S, mp-12894 Y2O2S,
mp-22939 BiOCl, mp-23072 BiOBr, mp-22987 BiOI, mp-23025 LaOCl, mp-22964 PbFCl, mp-23432 BaFCl, mp-23070 BaFBr,
mp-22957 SrFCl, mp-8136 ThOS, mp-1025418 LaTe3, mp-1218161 SrLaCoO4,
mp-1227145 CaPrCrO4
"""
CHAINS = """
mp-14 selenium, mp-19 tellurium, mp-23007 SbSI, mp-22996 SbSeI, mp-23514 BiSI, mp-23020 BiSeI, mp-2809 stibnite,
mp-2160 Sb2Se3, mp-23267 BeCl2, mp-1602 SiS2, mp-568264 SiSe2, mp-23282 ZrI3, mp-27725 AuI, mp-27309 VF5,
mp-726 SeO2, mp-715566 CrO3, mp-570044 NbI4, mp-569175 ZrCl4, mp-27743 BiF5, mp-29196 AuCN, mp-942 AuF3
"""
MOLECULAR = """
mp-23153 iodine, mp-23154 bromine, mp-22848 chlorine, mp-77 sulfur, mp-20066 CO2, mp-8560 SF6, mp-23288 Al2Br6,
mp-30092 TiCl4, mp-23182 SnI4, mp-562613 P4O10, mp-2184 As4O6, mp-25 nitrogen, mp-12957 oxygen, mp-2275 UF6,
mp-540783 OsO4, mp-1004532 CCl4, mp-29145 ammonia, mp-697111 ice, mp-11875 CO, mp-1818 SiF4, mp-28391 SiCl4,
mp-571246 GeBr4, mp-22885 XeF2, mp-27257 PBr3, mp-23189 BI3, mp-25082 Mo(CO)6, mp-567998 ICl, mp-542604 realgar,
mp-571518 WCl6, mp-23228 PCl5, mp-23307 NbCl5, mp-557259 MoF6, mp-2414 SO3, mp-23155 argon, mp-632326 HCl,
mp-632296 HF
"""
FRAMEWORK = """
mp-6930 quartz, mp-6945 cristobalite, mp-7087 tridymite, mp-6947 stishovite, mp-22862 halite, mp-1265 MgO,
mp-10695 ZnS, mp-9946 wurtzite, mp-66 diamond, mp-149 silicon, mp-2534 GaAs, mp-2741 fluorite, mp-20194 CeO2,
mp-2657 rutile, mp-390 anatase, mp-856 cassiterite, mp-19306 magnetite, mp-19017 LiFePO4, mp-5229 SrTiO3,
mp-5986 BaTiO3, mp-4019 CaTiO3, mp-22590 LaFeO3, mp-1180700 LaMnO3, mp-2920 LaAlO3, mp-22106 NdNiO3, mp-19281 LaCrO3,
mp-600576 GdFeO3, mp-22013 LaTiO3, mp-31116 LaScO3, mp-3792 YAlO3, mp-22588 LuFeO3, mp-22055 TbMnO3, mp-23501 BiFeO3,
mp-6457 La2MgTiO6, mp-1188812 La2NiMnO6, mp-1968 La2O3, mp-2652 Y2O3, mp-23262 Bi2O3, mp-8216 LaBO3,
mp-3050 YAG, mp-4704 YIG, mp-6008 grossular, mp-5302 Gd2Ti2O7, mp-4974 La2Zr2O7, mp-3962 LaPO4, mp-5132 xenotime,
mp-19133 YVO4, mp-23506 BiVO4, mp-542724 LaNbO4, mp-3666 LiTaO3, mp-19770 hematite, mp-19417 ilmenite,
mp-5348 magnesite, mp-4406 anhydrite, mp-3164 barite, mp-905 LaF3, mp-2416 YF3, mp-22896 LaCl3, mp-8111 LaOF,
mp-190 ReO3, mp-2895 forsterite, mp-4820 zircon, mp-6030 beryl, mp-721988 albite, mp-649722 nepheline,
mp-23145 sodalite, mp-6766 diopside, mp-2858 baddeleyite, mp-1692 CuO, mp-361 Cu2O, mp-590 NiAs, mp-226 pyrite,
mp-1883 SnTe, mp-2352 Na2O, mp-2251 Li3N, mp-763 MgB2, mp-2680 LaB6, mp-19426 scheelite, mp-19421 FeWO4,
mp-696752 KH2PO4, mp-4770 Na2SO4, mp-5158 KNO3, mp-30 copper, mp-2317 LaNi5, mp-1429 SmCo5, mp-1317 CoSb3,
mp-582295 LaFe4P12, mp-2062 LaSi2, mp-29678 AgBiS2, mp-557 paratellurite,
mp-3589 BPO4, mp-20361 FePO4, mp-29151 Li5NCl2,
mp-530787 Y6Zr22O53, mp-1226883 Ce2U2O9
"""
KNOWN = {
    tuple(entry.split(maxsplit=1)): kind
    for kind, table in zip(NAMES, (MOLECULAR, CHAINS, LAYERED, FRAMEWORK), strict=True)
    for entry in table.replace("\n", " ").strip().split(", ")
}
"""(id, name) → dimensionality."""


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest) -> dict[str, str]:
    crystals = request.getfixturevalue("database_entries")(number for number, _ in KNOWN)
    return {number: dimensionality(crystal, bonds(crystal)) for number, crystal in crystals.items()}


@pytest.mark.parametrize("kind", NAMES)
def test_well_known_crystals_have_the_dimensionality_that_is_stated_of_them(found, kind):
    named = {name: found[number] for (number, name), stated in KNOWN.items() if stated == kind and number in found}
    assert {name: answer for name, answer in named.items() if answer != kind} == {}
    assert len(named) >= 20


def test_nearly_all_of_the_well_known_crystals_are_there(found):
    assert np.mean([number in found for number, _ in KNOWN]) > 0.95
