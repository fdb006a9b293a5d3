"""Common minerals: name, ideal formula, space group.

Names and ideal formulas are those of the International Mineralogical Association. The space group is that of the
usual polytype at ambient conditions, or of the polymorph with this name.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

_TABLE = """
acanthite Ag2S 14, aegirine NaFeSi2O6 15, akermanite Ca2MgSi2O7 113, alabandite MnS 225, albite NaAlSi3O8 2,
almandine Fe3Al2Si3O12 230, altaite PbTe 225, alunite KAl3(SO4)2(OH)6 166, amblygonite LiAlPO4F 2,
analcime NaAlSi2O6·H2O 230, anatase TiO2 141, andalusite Al2SiO5 58, andradite Ca3Fe2Si3O12 230, anglesite PbSO4 62,
anhydrite CaSO4 63, ankerite CaFe(CO3)2 148, anorthite CaAl2Si2O8 2, antlerite Cu3(SO4)(OH)4 62, aragonite CaCO3 62,
arcanite K2SO4 62, argutite GeO2 136, arsenolite As2O3 227, arsenopyrite FeAsS 14, atacamite Cu2Cl(OH)3 62,
avicennite Tl2O3 206, azurite Cu3(CO3)2(OH)2 14, baddeleyite ZrO2 14, barite BaSO4 62, bastnasite CeCO3F 190,
benitoite BaTiSi3O9 188, berlinite AlPO4 152, berndtite SnS2 164, beryl Be3Al2Si6O18 192, bischofite MgCl2·6H2O 12,
bismite Bi2O3 14, bismuthinite Bi2S3 62, bixbyite Mn2O3 206, bloedite Na2Mg(SO4)2·4H2O 14, boehmite AlO(OH) 63,
boracite Mg3B7O13Cl 29, borax Na2B4O5(OH)4·8H2O 15, bornite Cu5FeS4 61, bournonite PbCuSbS3 31,
breithauptite NiSb 194, brochantite Cu4(SO4)(OH)6 14, bromargyrite AgBr 225, bromellite BeO 186, brookite TiO2 61,
brucite Mg(OH)2 164, bridgmanite MgSiO3 62, bunsenite NiO 225, burkeite Na6CO3(SO4)2 58, cadmoselite CdSe 186,
calaverite AuTe2 12, calcite CaCO3 167, calomel HgCl 139, carnallite KMgCl3·6H2O 52, carnotite K2(UO2)2V2O8 14,
cassiterite SnO2 136, cattierite CoS2 205, celestine SrSO4 62, celsian BaAl2Si2O8 12, cerianite CeO2 225,
cerussite PbCO3 62, chalcanthite CuSO4·5H2O 2, chalcocite Cu2S 14, chalcopyrite CuFeS2 122, chalcostibite CuSbS2 62,
chlorargyrite AgCl 225, chloromagnesite MgCl2 166, chromite FeCr2O4 227, chrysoberyl BeAl2O4 62, cinnabar HgS 152,
clausthalite PbSe 225, clinoenstatite MgSiO3 14, cobaltite CoAsS 29, coccinite HgI2 137, coesite SiO2 15,
colemanite CaB3O4(OH)3·H2O 14, coloradoite HgTe 216, columbite FeNb2O6 60, cooperite PtS 131,
cordierite Mg2Al4Si5O18 66, corundum Al2O3 167, cotunnite PbCl2 62, covellite CuS 194, cristobalite SiO2 92,
crocoite PbCrO4 14, cryolite Na3AlF6 14, cubanite CuFe2S3 62, cuprite Cu2O 224, cuprospinel CuFe2O4 227,
danburite CaB2Si2O8 62, datolite CaBSiO4(OH) 14, delafossite CuFeO2 166, descloizite PbZnVO4(OH) 62,
diaspore AlO(OH) 62, diopside CaMgSi2O6 15, dioptase CuSiO3·H2O 148, dolomite CaMg(CO3)2 148, domeykite Cu3As 220,
elpasolite K2NaAlF6 225, enargite Cu3AsS4 31, enstatite MgSiO3 61, epsomite MgSO4·7H2O 19,
erythrite Co3(AsO4)2·8H2O 12, eskolaite Cr2O3 167, eucryptite LiAlSiO4 148, eudialyte Na15Ca6Fe3Zr3Si26O73Cl 166,
famatinite Cu3SbS4 121, fayalite Fe2SiO4 62, fergusonite YNbO4 15, ferrosilite FeSiO3 61,
fluorapatite Ca5(PO4)3F 176, fluorite CaF2 225, forsterite Mg2SiO4 62, franklinite ZnFe2O4 227, gahnite ZnAl2O4 227,
galaxite MnAl2O4 227, galena PbS 225, gaylussite Na2Ca(CO3)2·5H2O 15, gehlenite Ca2Al2SiO7 113,
geikielite MgTiO3 148, gersdorffite NiAsS 198, gibbsite Al(OH)3 14, glauberite Na2Ca(SO4)2 15, goethite FeO(OH) 62,
greenockite CdS 186, greigite Fe3S4 227, grossular Ca3Al2Si3O12 230, gypsum CaSO4·2H2O 15, halite NaCl 225,
hauerite MnS2 205, hausmannite Mn3O4 141, hawleyite CdS 216, heazlewoodite Ni3S2 155, hedenbergite CaFeSi2O6 15,
hematite Fe2O3 167, hemimorphite Zn4Si2O7(OH)2·H2O 44, hercynite FeAl2O4 227, herzenbergite SnS 62,
hessite Ag2Te 14, heterogenite CoO(OH) 166, hopeite Zn3(PO4)2·4H2O 62, huebnerite MnWO4 13, huntite CaMg3(CO3)4 155,
hydroboracite CaMgB6O8(OH)6·3H2O 13, hydrophilite CaCl2 58, hydroxylapatite Ca5(PO4)3(OH) 176, ilmenite FeTiO3 148,
iodargyrite AgI 186, jacobsite MnFe2O4 227, jadeite NaAlSi2O6 15, jarosite KFe3(SO4)2(OH)6 166,
kalsilite KAlSiO4 173, kaolinite Al2Si2O5(OH)4 1, karelianite V2O3 167, kernite Na2B4O6(OH)2·3H2O 14,
kesterite Cu2ZnSnS4 82, kieserite MgSO4·H2O 15, knorringite Mg3Cr2Si3O12 230, kotoite Mg3B2O6 58,
krennerite Au3AgTe8 28, kyanite Al2SiO5 2, langbeinite K2Mg2(SO4)3 198, laurite RuS2 205, lautarite Ca(IO3)2 14,
lawsonite CaAl2Si2O7(OH)2·H2O 63, lazurite Na7Ca(AlSiO4)6(SO4)S3·H2O 218, lepidocrocite FeO(OH) 63,
leucite KAlSi2O6 88, lime CaO 225, litharge PbO 129, lithiophosphate Li3PO4 31, livingstonite HgSb4S8 15,
loellingite FeAs2 58, lonsdaleite C 194, lueshite NaNbO3 57, mackinawite FeS 129, maghemite Fe2O3 213,
magnesite MgCO3 167, magnesiochromite MgCr2O4 227, magnesioferrite MgFe2O4 227, magnetite Fe3O4 227,
malachite Cu2CO3(OH)2 14, manganite MnO(OH) 14, manganosite MnO 225, marcasite FeS2 58, marialite Na4Al3Si9O24Cl 87,
marshite CuI 216, massicot PbO 57, matlockite PbFCl 129, melanterite FeSO4·7H2O 14, metacinnabar HgS 216,
miersite AgI 216, millerite NiS 160, mimetite Pb5(AsO4)3Cl 176, mirabilite Na2SO4·10H2O 14, moissanite SiC 186,
molybdenite MoS2 194, molybdite MoO3 62, molysite FeCl3 148, monazite CePO4 14, monteponite CdO 225,
monticellite CaMgSiO4 62, montroydite HgO 62, mullite Al6Si2O13 55, muscovite KAl3Si3O10(OH)2 15,
nahcolite NaHCO3 14, nantokite CuCl 216, natrite Na2CO3 12, natrolite Na2Al2Si3O10·2H2O 43, natron Na2CO3·10H2O 9,
naumannite Ag2Se 19, nepheline KNa3Al4Si4O16 173, nickeline NiAs 194, niter KNO3 62, nitratine NaNO3 167,
oldhamite CaS 225, olivenite Cu2AsO4(OH) 14, orpiment As2S3 14, orthoclase KAlSi3O8 12, osbornite TiN 225,
otavite CdCO3 167, patronite VS4 15, paratellurite TeO2 92, pentlandite Fe4Ni5S8 225, periclase MgO 225,
perovskite CaTiO3 62, petalite LiAlSi4O10 13, phenakite Be2SiO4 148, phlogopite KMg3AlSi3O10(OH)2 12,
phosgenite Pb2CO3Cl2 127, plattnerite PbO2 136, portlandite Ca(OH)2 164, powellite CaMoO4 88, proustite Ag3AsS3 161,
pyrargyrite Ag3SbS3 161, pyrite FeS2 205, pyrochroite Mn(OH)2 164, pyrolusite MnO2 136,
pyromorphite Pb5(PO4)3Cl 176, pyrope Mg3Al2Si3O12 230, pyrophanite MnTiO3 148, pyrophyllite Al2Si4O10(OH)2 2,
pyroxmangite MnSiO3 2, pyrrhotite Fe7S8 15, qandilite Mg2TiO4 227, quartz SiO2 152, ramsdellite MnO2 62,
realgar AsS 14, retgersite NiSO4·6H2O 92, rhodochrosite MnCO3 167, rhodonite MnSiO3 2, ringwoodite Mg2SiO4 227,
romarchite SnO 129, rutile TiO2 136, safflorite CoAs2 14, salammoniac NH4Cl 221, sassolite H3BO3 2,
scheelite CaWO4 88, schreibersite Fe3P 82, scorodite FeAsO4·2H2O 61, scorzalite FeAl2(PO4)2(OH)2 14,
scrutinyite PbO2 60, sellaite MgF2 136, senarmontite Sb2O3 227, shcherbinaite V2O5 59, siderite FeCO3 167,
sillimanite Al2SiO5 62, smithsonite ZnCO3 167, sodalite Na4Al3Si3O12Cl 218, spessartine Mn3Al2Si3O12 230,
sphalerite ZnS 216, spherocobaltite CoCO3 167, spinel MgAl2O4 227, spodumene LiAlSi2O6 15, stannite Cu2FeSnS4 121,
stibarsen AsSb 166, stibnite Sb2S3 62, stilleite ZnSe 216, stishovite SiO2 136, stolzite PbWO4 88,
strontianite SrCO3 62, struvite NH4MgPO4·6H2O 31, sulvanite Cu3VS4 215, sylvanite AuAgTe4 13, sylvite KCl 225,
talc Mg3Si4O10(OH)2 2, tantalite FeTa2O6 60, tausonite SrTiO3 221, tellurite TeO2 61, tellurobismuthite Bi2Te3 166,
tenorite CuO 15, tephroite Mn2SiO4 62, tetradymite Bi2Te2S 166, tetrahedrite Cu12Sb4S13 217, thenardite Na2SO4 70,
theophrastite Ni(OH)2 164, thorianite ThO2 225, thorite ThSiO4 141, tiemannite HgSe 216, titanite CaTiSiO5 14,
topaz Al2SiO4F2 62, tridymite SiO2 194, triphylite LiFePO4 62, troilite FeS 190, trona Na3H(CO3)2·2H2O 15,
tugarinovite MoO2 14, tungstenite WS2 194, ullmannite NiSbS 198, ulvospinel Fe2TiO4 227, uraninite UO2 225,
uvarovite Ca3Cr2Si3O12 230, valentinite Sb2O3 56, vanadinite Pb5(VO4)3Cl 176, villiaumite NaF 225,
vivianite Fe3(PO4)2·8H2O 12, wadsleyite Mg2SiO4 74, wavellite Al3(PO4)2(OH)3·5H2O 62, whewellite CaC2O4·H2O 14,
willemite Zn2SiO4 148, witherite BaCO3 62, wolfeite Fe2PO4(OH) 14, wollastonite CaSiO3 2, wulfenite PbMoO4 88,
wurtzite ZnS 186, wustite FeO 225, xenotime YPO4 141, zabuyelite Li2CO3 15, zircon ZrSiO4 141, zincite ZnO 186,
zoisite Ca2Al3Si3O12(OH) 62
"""


class Mineral(NamedTuple):
    """A mineral species."""

    name: str
    """Name in lower case, without diacritics."""
    formula: str
    """Ideal formula in mineralogical notation, readable by `crystalign.formula.read_formula`."""
    spacegroup_number: int
    """Space group number, 1 to 230."""


@functools.cache
def minerals() -> tuple[Mineral, ...]:
    """All minerals of the table, in alphabetical order."""
    rows = (row.split() for row in _TABLE.split(",") if row.strip())
    return tuple(Mineral(name, formula, int(number)) for name, formula, number in sorted(rows))
