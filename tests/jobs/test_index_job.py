from __future__ import annotations

import numpy as np
import pytest

from clustered_vectors import Corpus, write_corpus
from crystalign.errors import VerificationError
from crystalign.index.build import build_index
from crystalign.index.compaction import compact
from crystalign.index.index import Index
from crystalign.index.live import add, remove
from crystalign.index.manifest import IndexManifest
from crystalign_jobs.index.add import Add
from crystalign_jobs.index.add import main as add_job
from crystalign_jobs.index.build import BuildIndex, main
from crystalign_jobs.index.compact import Compact
from crystalign_jobs.index.compact import main as compact_job
from crystalign_jobs.index.remove import Remove
from crystalign_jobs.index.remove import main as remove_job

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory):
    return write_corpus(str(tmp_path_factory.mktemp("corpus") / "embeddings"), Corpus(2000, 16))


def test_an_index_built_on_a_cluster_is_the_one_built_in_one_process(embeddings, tmp_path, capsys):
    alone = build_index(embeddings, str(tmp_path / "alone"), rows_per_segment=150)
    config = BuildIndex(embeddings=embeddings, out=str(tmp_path / "index"), rows_per_segment=150)
    made = main(config)
    assert made.version == alone.version
    assert made == IndexManifest.read(config.out)
    assert "2,000 crystal vectors of 16 dimensions in 14 segments" in capsys.readouterr().out
    assert main(config) == made, "and again: nothing happens"
    index = Index.open(config.out)
    query = index.segment.vectors(np.array([1234])).astype(np.float32)
    assert index.search(query, 1)[0][0]["id"] == "syn-1234"


def test_changes_on_a_cluster_are_those_of_one_process(embeddings, tmp_path, capsys):
    more = write_corpus(str(tmp_path / "more"), Corpus(2300, 16, seed=1))
    uris = [str(tmp_path / name) for name in ("alone", "index")]
    for uri in uris:
        build_index(embeddings, uri, rows_per_segment=150)
    add(uris[0], more, replace=True, rows_per_segment=500)
    remove(uris[0], filter_text="nelements=2")
    compact(uris[0])
    add_job(Add(index=uris[1], embeddings=more, replace=True, rows_per_segment=500))
    remove_job(Remove(index=uris[1], filter="nelements=2"))
    compact_job(Compact(index=uris[1]))
    alone, made = (IndexManifest.read(uri) for uri in uris)
    assert (alone.version, alone.number) == (made.version, made.number)
    assert made.number == 4
    assert "version 4 of" in capsys.readouterr().out


def test_what_a_task_refuses_is_an_error_of_ours(tmp_path):
    uri = write_corpus(str(tmp_path / "embeddings"), Corpus(500, 16))
    (part,) = (tmp_path / "embeddings" / "embeddings").iterdir()
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(VerificationError, match="manifest says"):
        main(BuildIndex(embeddings=uri, out=str(tmp_path / "index"), rows_per_segment=50))
    assert not (tmp_path / "index" / "manifest.json").exists()
