"""Files of strangers are read in processes that are thrown away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gemmi
import numpy as np
import psutil
import pytest

from crystalign.crystal import Crystal
from crystalign.errors import CrystalError, FileFormatError, InputError, QueryError
from crystalign.modalities import make_modality
from crystalign.readers.structures.structure_file import sniffed_kind
from crystalign_serve.errors import UnavailableError
from crystalign_serve.files import Upload, guess_kind, read_file
from crystalign_serve.sandbox import answers, tasks, wire
from crystalign_serve.sandbox.limits import SandboxLimits
from crystalign_serve.sandbox.pool import Sandbox
from crystalign_serve.sandbox.process import servers

MODALITIES = {name: make_modality(name) for name in ("crystal", "dos", "xrd")}
LIMITS = SandboxLimits(memory_mb=96, seconds=1.5, processes=2, waiting=3, queue_seconds=4.0)
SALT = Crystal(np.eye(3) * 4.1, np.array([[0.0] * 3, [0.5] * 3]), np.array([55, 17]))
PATTERN = b"".join(b"%.2f %d\n" % (10 + n / 20, 100 + n % 37) for n in range(1400))


HOSTILE = {
    "takes memory in pieces": ("blocks = [bytearray(2**20) for _ in range(400)]", "too-large", "96 MB"),
    "takes memory at once": ("numpy.zeros(2**28)", "too-large", "96 MB"),
    "never ends": ("while True: pass", "too-slow", "1.5 s"),
    "sleeps": ("time.sleep(60)", "too-slow", "1.5 s"),
    "blocks signals": ("signal.pthread_sigmask(0, range(1, 31)); time.sleep(60)", "too-slow", "1.5 s"),
    "reads where nothing is": ("ctypes.string_at(8)", "unreadable-file", "SIGSEGV"),
    "leaves": ("os._exit(7)", "unreadable-file", "status 7"),
    "aborts": ("os.abort()", "unreadable-file", "SIGABRT"),
    "raises": ("raise ZeroDivisionError('in the parser')", "unreadable-file", "ZeroDivisionError"),
    "recurses": ("again(0)", "unreadable-file", "RecursionError"),
    "fills the disk": ("os.truncate(os.open('big', 65), 2**27)", "unreadable-file", "OSError"),
    "opens many files": ("[os.open('/dev/null', 0) for _ in range(100)]", "unreadable-file", "OSError"),
    "answers nonsense": ("os.write(3, bytes([255]) * 64); time.sleep(60)", "unreadable-file", "message of"),
}
"""What a file might make a reader do, the reason a user is given, and a word of the message."""
CUSTOMISED = """
import os, signal, sys, time, ctypes
if "crystalign_serve.sandbox.server" in " ".join(sys.orig_argv):
    import numpy
    import crystalign_serve.files as files
    real, hostile = files.read_file, {hostile!r}
    def again(n):
        return again(n + 1)
    def read_file(upload):
        if upload.name in hostile:
            exec(hostile[upload.name])
        return real(upload)
    files.read_file = read_file
"""


@pytest.fixture(scope="module", autouse=True)
def pool(tmp_path_factory) -> Iterator[None]:
    """One fork server with small limits for all tests here; files of some names make its readers run wild."""
    folder = tmp_path_factory.mktemp("customised")
    codes = {f"{name}.cif": code for name, (code, *_) in HOSTILE.items()}
    (folder / "sitecustomize.py").write_text(CUSTOMISED.format(hostile=codes))
    sys.path.insert(0, str(folder))
    try:
        assert servers(LIMITS).start().wait()
        yield
    finally:
        sys.path.remove(str(folder))
        servers(LIMITS).close()


def ask(upload: Upload, limits: SandboxLimits = LIMITS):
    return asyncio.run(Sandbox(limits).part(upload, MODALITIES))


def cif(crystal: Crystal = SALT, name: str = "salt.cif") -> Upload:
    return Upload(name, crystal.to_cif().encode(), "auto", None)


@pytest.mark.parametrize(
    ("upload", "modality"),
    [
        (cif(), "crystal"),
        (Upload("POSCAR_CsCl", SALT.to_poscar().encode(), "auto", None), "crystal"),
        (Upload("scan.xy", PATTERN, "auto", "CuKa"), "xrd"),
        (Upload("e.txt", b"".join(b"%.2f %d\n" % (n / 10 - 12, n % 9) for n in range(240)), "dos", None), "dos"),
    ],
)
def test_a_file_gives_what_it_gives_in_this_process(upload, modality):
    part, own = ask(upload), read_file(upload)
    assert (part.name, part.modality) == (own.name, modality)
    features = MODALITIES[modality].featurise(own.value)
    assert set(part.features) == set(features)
    for name, array in features.items():
        np.testing.assert_array_equal(part.features[name], array)
        assert part.features[name].dtype == array.dtype
    assert (part.curve is None) == (modality == "crystal")
    if modality == "xrd":
        np.testing.assert_array_equal(part.value.two_theta, own.value.two_theta)
        assert part.value.wavelength == own.value.wavelength


def test_a_crystal_comes_back_bit_for_bit_with_its_mixed_sites():
    mixed = Crystal(SALT.lattice, SALT.frac_coords, np.array([55, 17]), (((37, 0.25), (55, 0.75)), ((17, 1.0),)))
    found = asyncio.run(Sandbox(LIMITS).crystal(cif(mixed))).crystal
    np.testing.assert_array_equal(found.atomic_numbers, mixed.atomic_numbers)
    np.testing.assert_allclose(found.lattice, mixed.lattice, atol=1e-7)
    assert found.occupancies == mixed.occupancies


def test_mistakes_keep_their_class_their_reason_and_name_the_file():
    with pytest.raises(FileFormatError, match=r"scan\.xy") as caught:
        ask(Upload("scan.xy", b"10 1\n11 x\n", "auto", "CuKa"))
    assert type(caught.value) is FileFormatError
    with pytest.raises(QueryError, match="does not read xrd; it reads crystal") as caught:
        asyncio.run(Sandbox(LIMITS).part(Upload("s.xy", PATTERN, "auto", None), {"crystal": MODALITIES["crystal"]}))
    assert caught.value.reason == "missing-modality"
    with pytest.raises(QueryError, match="no kind of file 'smell'"):
        ask(Upload("a.cif", b"x", "smell", None))


def alive() -> list[psutil.Process]:
    """The fork server of these tests and its children."""
    server = servers(LIMITS).start().process.pid
    return [psutil.Process(server), *psutil.Process(server).children(recursive=True)]


def until(condition, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_reader_that_runs_wild_is_ended_and_the_user_is_told(name):
    _, reason, word = HOSTILE[name]
    began = time.monotonic()
    with pytest.raises(InputError, match=word) as caught:
        ask(cif(name=f"{name}.cif"))
    assert caught.value.reason == reason
    assert f"{name}.cif" in str(caught.value)
    assert time.monotonic() - began < LIMITS.seconds + 2
    assert ask(cif()).modality == "crystal", "the next file is read"


def test_every_child_serves_once_and_nothing_is_left_of_it():
    for _ in range(5):
        ask(cif())
    assert until(lambda: len(alive()) == 1 + LIMITS.processes), "as many stand ready as before"
    assert all(process.status() != psutil.STATUS_ZOMBIE for process in alive())
    server = alive()[0]
    assert server.num_threads() == 1, "who forks has one thread"
    assert not {"torch", "ray", "fastapi"} & {Path(m.path).parts[-2] for m in server.memory_maps() if "/" in m.path}
    folder = Path(server.cmdline()[-1])
    assert len(list(folder.iterdir())) <= LIMITS.processes, "files that children wrote go with them"


def test_children_know_no_secrets_and_hold_no_files_of_the_service(monkeypatch):
    for process in alive():
        held = process.environ()
        assert not {name for name in held if "TOKEN" in name or "SECRET" in name or name.startswith(("AWS", "RAY"))}
    child = alive()[-1]
    assert len(list(Path(f"/proc/{child.pid}/fd").iterdir())) == 4, "three streams and its socket"
    limits = Path(f"/proc/{child.pid}/limits").read_text()
    assert "Max core file size        0" in limits


def test_a_file_that_takes_its_time_does_not_hold_up_others_and_a_full_queue_is_told():
    async def many():
        sandbox = Sandbox(LIMITS)
        slow = [asyncio.ensure_future(sandbox.part(cif(name="sleeps.cif"), MODALITIES)) for _ in range(2)]
        await asyncio.sleep(0.2)
        waiting = [asyncio.ensure_future(sandbox.part(cif(), MODALITIES)) for _ in range(LIMITS.waiting)]
        await asyncio.sleep(0.1)
        with pytest.raises(UnavailableError, match="waiting to be read"):
            await sandbox.part(cif(), MODALITIES)
        told = await asyncio.gather(*slow, return_exceptions=True)
        return told, await asyncio.gather(*waiting)

    told, read = asyncio.run(many())
    assert {error.reason for error in told} == {"too-slow"}
    assert [part.modality for part in read] == ["crystal"] * LIMITS.waiting


def worked(process: psutil.Process) -> float:
    try:
        return process.cpu_times().user
    except psutil.NoSuchProcess:
        return 0.0


def test_who_goes_away_ends_the_reader_of_his_file():
    async def leave():
        sandbox = Sandbox(LIMITS)
        reading = asyncio.ensure_future(sandbox.part(cif(name="never ends.cif"), MODALITIES))
        busy: list[psutil.Process] = []
        while not busy and not reading.done():
            await asyncio.sleep(0.02)
            busy = [process for process in alive()[1:] if worked(process) > 0.05]
        reading.cancel()
        return busy

    busy = asyncio.run(leave())
    assert busy, "it was at work"
    assert until(lambda: not any(process.is_running() for process in busy), 1.0)


def test_the_fork_server_comes_back_when_it_is_killed():
    assert ask(cif()).modality == "crystal"
    first = servers(LIMITS).start()
    assert first.wait()
    children = alive()
    time.sleep(max(0.0, servers(LIMITS).RESTART_SECONDS - 1))
    os.kill(first.process.pid, signal.SIGKILL)
    assert ask(cif()).modality == "crystal"
    assert until(lambda: servers(LIMITS).start() is not first)
    assert until(lambda: not first.folder.exists()), "and their files with them"
    assert until(lambda: not any(process.is_running() for process in children)), "its children ended with it"


def test_all_of_it_ends_with_the_service_however_that_ends(tmp_path):
    code = (
        "import time\n"
        "from crystalign_serve.sandbox.process import servers\n"
        "from crystalign_serve.sandbox.limits import SandboxLimits\n"
        "server = servers(SandboxLimits(processes=2)).start()\n"
        "assert server.wait()\n"
        "print(server.process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as service:
        server = psutil.Process(int(service.stdout.readline()))
        assert until(lambda: len(server.children()) == 2)
        left = [server, *server.children()]
        folder = Path(server.cmdline()[-1])
        service.kill()
        service.wait()
    assert until(lambda: not any(process.is_running() for process in left))
    assert until(lambda: not folder.exists())


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_large_blocks_go_back_to_the_machine():
    code = (
        "import psutil, sys\n"
        "from crystalign_serve.allocator import give_back_memory\n"
        "assert sys.argv[1] == 'as it is' or give_back_memory()\n"
        "blocks = []\n"
        "bytes(30 * 2**20)\n"  # glibc raises its threshold when a block of this size is freed
        "before = psutil.Process().memory_info().rss\n"
        "for _ in range(10): blocks += [bytearray(b'x') * (8 * 2**20), bytearray(b'x') * 40_000]\n"
        "del blocks[::2]\n"
        "print((psutil.Process().memory_info().rss - before) >> 20)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    kept = [
        int(
            subprocess.run(
                [sys.executable, "-c", code, how], capture_output=True, text=True, check=True, env=environment
            ).stdout
        )
        for how in ("as it is", "given back")
    ]
    assert kept[1] < 8
    assert kept[1] < kept[0]


# --- messages ---------------------------------------------------------------------------------------------------------


def sent(data: bytes) -> wire.Message:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        return wire.receive(ours, time.monotonic() + 5)


def test_a_message_arrives_as_it_was_sent():
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(3.5, np.float32), "c": np.zeros((0, 3), np.int64)}
    got = sent(b"".join(wire.pack(wire.Message({"é": [1, None, "x"]}, arrays))))
    assert got.fields == {"é": [1, None, "x"]}
    for name, array in arrays.items():
        np.testing.assert_array_equal(got.arrays[name], array)
        assert (got.arrays[name].dtype, got.arrays[name].shape) == (array.dtype, array.shape)


@pytest.mark.parametrize(
    ("head", "body", "lengths"),
    [
        (b"", b"", (2**63, 0)),
        (b"", b"", (2, 2**40)),
        (b"[" * 100_000, b"", None),
        (b"\x80\x04.", b"", None),
        (b'{"fields": 3, "arrays": []}', b"", None),
        (b'{"fields": {}, "arrays": [["a", "|O8", [1]]]}', b"12345678", None),
        (b'{"fields": {}, "arrays": [["a", "<f8", [-1]]]}', b"", None),
        (b'{"fields": {}, "arrays": [["a", "<f8", [9]]]}', b"12345678", None),
        (b'{"fields": {}, "arrays": [["a", "<f8", [true]]]}', b"12345678", None),
        (b'{"fields": {}, "arrays": [["a", "<f8", [1,1,1,1,1]]]}', b"12345678", None),
        (b'{"fields": {}, "arrays": [[["a"], "<f8", [1]]]}', b"12345678", None),
    ],
)
def test_what_is_no_message_is_refused(head, body, lengths):
    sizes = wire._LENGTHS.pack(*(lengths or (len(head), len(body))))
    with pytest.raises(wire.WireError):
        sent(sizes + head + body)


def test_a_message_that_ends_early_is_none():
    with pytest.raises(EOFError):
        sent(b"".join(wire.pack(wire.Message({"a": 1})))[:-3])


CHANGES = {
    "an edge that leads nowhere": lambda m: m.arrays["features.edge_index"].__setitem__((0, 0), 99),
    "an atom that is no element": lambda m: m.arrays["features.x"].__setitem__(0, 0),
    "a length that is no number": lambda m: m.arrays["features.edge_length"].__setitem__(0, np.nan),
    "a feature too many": lambda m: m.arrays.__setitem__("features.extra", np.zeros(3)),
    "a feature too few": lambda m: m.arrays.pop("features.edge_vector"),
    "another type": lambda m: m.arrays.__setitem__("features.x", m.arrays["features.x"].astype(np.int32)),
    "another shape": lambda m: m.arrays.__setitem__("features.lattice", np.zeros((2, 3), np.float32)),
    "edges of another length": lambda m: m.arrays.__setitem__("features.edge_length", np.ones(3, np.float32)),
    "another modality": lambda m: m.fields.__setitem__("modality", "text"),
    "notices that are none": lambda m: m.fields.__setitem__("notices", 3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_features_that_a_reader_would_not_make_do_not_reach_an_encoder(change):
    answer = tasks.run(tasks.ask_part(cif(), MODALITIES))
    good = wire.Message(answer.fields, {name: array.copy() for name, array in answer.arrays.items()})
    assert answers.part_of(good, MODALITIES).modality == "crystal"
    CHANGES[change](good)
    with pytest.raises(wire.WireError):
        answers.part_of(good, MODALITIES)


def test_a_refusal_of_an_unknown_class_is_still_a_mistake_of_the_user():
    for name in ("StorageError", "os.system", "Error", "annotations"):
        with pytest.raises(InputError, match="told"):
            answers.raise_refusal(wire.Message({"refused": name, "message": "told", "reason": "r"}), "a.cif")


# --- files that cost much --------------------------------------------------------------------------------------------


def cell(sites: str, symmetry: str, a: float = 40.0) -> bytes:
    lengths = "".join(f"_cell_length_{x} {a}\n" for x in "abc") + "".join(
        f"_cell_angle_{x} 90\n" for x in ("alpha", "beta", "gamma")
    )
    head = "loop_\n_atom_site_label\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
    return f"data_x\n{lengths}{symmetry}{head}{sites}".encode()


def rows(n: int, separator: str = "\n") -> str:
    return separator.join(f"Na{i} {i % 97 / 97:.5f} {i % 89 / 89:.5f} {i % 83 / 83:.5f}" for i in range(n)) + "\n"


OPERATIONS = "loop_\n_symmetry_equiv_pos_as_xyz\n" + "".join(
    f"'{operation.triplet()}'\n" for operation in gemmi.SpaceGroup("F m -3 m").operations()
)
COSTLY = {
    "192 operations and 300 sites": cell(rows(300), OPERATIONS),
    "500 sites in F m -3 m by name": cell(rows(500), "_symmetry_space_group_name_H-M 'F m -3 m'\n"),
    "20,000 atoms on one line": cell(rows(20_000, " "), ""),
    "one line of every site and operations by number": cell(rows(400, " "), "_symmetry_Int_Tables_number 225\n"),
}


@pytest.mark.parametrize("name", COSTLY)
def test_a_structure_that_would_cost_much_is_refused_before_it_is_built(name):
    with pytest.raises(CrystalError) as caught:
        ask(Upload("big.cif", COSTLY[name], "auto", None))
    assert caught.value.reason == "too-many-sites", caught.value  # not that it took too long, or too much memory


@pytest.mark.parametrize("counts", ["10000000", "5000000 5000000", "9999999 1", "1 " * 300 + "9999999"])
def test_a_poscar_is_believed_to_have_as_many_atoms_as_lines(counts):
    symbols = " ".join(["Na"] * len(counts.split()))
    text = f"x\n1.0\n4 0 0\n0 4 0\n0 0 4\n{symbols}\n{counts}\nDirect\n0 0 0\n".encode()
    with pytest.raises(CrystalError) as caught:
        ask(Upload("POSCAR", text, "auto", None))
    assert caught.value.reason in {"too-many-sites", "unreadable-poscar"}


COLUMNS = b"".join(b"%d %d %d\n" % (10 + n, 50 + n % 7, 7) for n in range(60))


@pytest.mark.parametrize("name", ["scan.txt", "scan.dat", "scan"])
@pytest.mark.parametrize("table", [COLUMNS, COLUMNS.replace(b" 7\n", b" 7.5\n"), b"title\n" + COLUMNS])
def test_a_table_of_three_columns_is_no_poscar(name, table):
    with pytest.raises(FileFormatError, match="cannot tell what"):
        guess_kind(name, table)
    assert sniffed_kind(table) == ""


@pytest.mark.parametrize("line", [b"1" * 400, b"1." * 200, b"1" * 20 + (b" " + b"1" * 20) * 2, b" " * 400, b"1e" * 200])
def test_a_kind_is_told_in_an_instant_whatever_the_lines_hold(line):
    started = time.perf_counter()
    for text in (b"title\n" + b"\n".join([line] * 4), b"title\n1.0\n" + (line + b"\n") * 9, line * 9):
        with contextlib.suppress(FileFormatError):
            guess_kind("upload", text)
        sniffed_kind(text)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.cif.gz", b"", "cif"),
        ("POSCAR_KCl", b"", "poscar"),
        ("NaCl.vasp", b"", "poscar"),
        ("mp-1.json", b"", "json"),
        ("upload", b'\xef\xbb\xbf {"@module": "pymatgen"}', "json"),
        ("scan.ras", b"", "xrd"),
        ("scan.CHI", b"", "xrd"),
        ("scan.fxye", b"", "xrd"),
        ("scan.brml", b"PK", "xrd"),
        ("scan.xml", b"<?xml version='1.0'?><xrdMeasurements>", "xrd"),
        ("run.xml", b"<?xml version='1.0'?><modeling>", "dos"),
        ("vasprun.xml.gz", b"", "dos"),
        ("a", b"title\r\n1.0\r\n4 0 0\r\n0 4 0\r\n0 0 4\r\nNa\r\n", "poscar"),
        ("scan.txt", b"2theta counts\n10 1\n", "xrd"),
        ("e.csv", b"-5.0, 1.0\n", "dos"),
        ("scan.txt", b"2theta I sigma\n" + COLUMNS, "xrd"),
        ("scan.csv", b"Angle,Intensity\n10.0,5\n10.1,6\n", "xrd"),
        ("scan.txt", "2θ counts\n10 1\n".encode("utf-16"), "xrd"),
        ("x.txt", b"# synchrotron, photon energy 17 keV\n" + COLUMNS, "xrd"),
        ("mydos.txt", b"# E dos\n" + COLUMNS, "dos"),
        ("x.txt", b"Energy (keV) DOS\n" + COLUMNS, "dos"),
        ("a", b"theta phase\n1.0\n4 0 0\n0 4 0\n0 0 4\n2 1\nDirect\n0 0 0\n", "poscar"),
        ("a", b"energy -5 eV\r1 1 1\r4. 0 0 ! a\r0 4.d0 0\r0 0 4\rNa_pv Cl\r1 1\rDirect\r", "poscar"),
    ],
)
def test_the_kind_of_a_file_is_told_by_its_name_and_then_its_content(name, data, kind):
    assert guess_kind(name, data) == kind
