"""Embeddings of and for other programs: what is written is read again, by them and by us."""

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import ColourEncoder
from media_folder import write_pictures
from stores import make

from perception_search import Collection, embedding_files
from perception_search.adopt import import_embeddings
from perception_search.embedding_files import read, write
from perception_search.errors import CollectionMismatch, ExportError, QueryError
from perception_search.search import eligible_rows
from perception_search.snapshot import Snapshot

PARITY = Path(__file__).parent.parent / ".venv-parity/bin/python"


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    return Snapshot.open(make(tmp_path_factory.mktemp("made") / "c.ps", 300))


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(embedding_files, "ROWS_PER_FILE", 25)
    monkeypatch.setattr(embedding_files, "_AT_ONCE", 10)
    monkeypatch.setattr(embedding_files, "_READ_ROWS", 7)


def embeddings_of(snapshot):
    return snapshot.rows.embeddings(snapshot.searchable)


@pytest.mark.parametrize("form", ["clip-retrieval", "parquet"])
def test_what_is_written_is_read_again(snapshot, tmp_path, form):
    to = tmp_path / ("all.parquet" if form == "parquet" else "all")
    assert write(snapshot, to, form) == len(snapshot.searchable)
    given = list(read(to))
    matrix = np.concatenate([some.embeddings for some in given])
    assert np.array_equal(matrix.astype(np.float32), embeddings_of(snapshot))
    items = snapshot.item_of_row[snapshot.searchable]
    paths = [path for some in given for path in some.paths]
    assert paths == [str(path) for path in snapshot.first_paths(items)]
    assert list(tmp_path.iterdir()) == [to], "nothing half written is left"


def test_clip_retrieval_s_layout(snapshot, tmp_path):
    write(snapshot, tmp_path / "out", "clip-retrieval")
    count = -(-len(snapshot.searchable) // 25)
    names = sorted(path.name for path in (tmp_path / "out/img_emb").iterdir())
    assert len(names) == count
    assert names[0] == "img_emb_00.npy"
    first = np.load(tmp_path / "out/img_emb/img_emb_00.npy")
    assert (first.dtype, first.shape) == (np.float16, (25, snapshot.dim))
    beside = pd.read_parquet(tmp_path / "out/metadata/metadata_00.parquet")
    assert len(beside) == 25
    assert beside["image_path"].notna().all()


def test_others_open_the_parquet_file(snapshot, tmp_path):
    path = tmp_path / "all.parquet"
    write(snapshot, path, "parquet")
    expected = embeddings_of(snapshot)
    frame = pd.read_parquet(path)
    assert np.allclose(np.stack(frame["embedding"]), expected)
    assert frame.loc[frame["kind"] == "image", "start_seconds"].isna().all()
    query = expected[7].tolist()
    statement = (
        f"SELECT row_id FROM '{path}' ORDER BY array_inner_product("
        f"embedding::FLOAT[{snapshot.dim}], ?::FLOAT[{snapshot.dim}]) DESC LIMIT 1"
    )
    [[best]] = duckdb.execute(statement, [query]).fetchall()
    assert best == snapshot.rows.row_id[snapshot.searchable[7]]


@pytest.mark.skipif(not PARITY.exists(), reason="make parity-env brings LanceDB")
def test_lancedb_searches_what_is_written(tmp_path, snapshot):
    path = tmp_path / "all.parquet"
    write(snapshot, path, "parquet")
    query = embeddings_of(snapshot)[7]
    np.save(tmp_path / "query.npy", query)
    code = (
        "import sys, lancedb, numpy, pyarrow.parquet as pq\n"
        "folder = sys.argv[1]\n"
        "rows = pq.read_table(folder + '/all.parquet')\n"
        "table = lancedb.connect(folder).create_table('all', rows)\n"
        "best = table.search(numpy.load(folder + '/query.npy')).limit(1).to_arrow()\n"
        "print(best['row_id'][0])\n"
    )
    done = subprocess.run(
        [PARITY, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == snapshot.rows.row_id[snapshot.searchable[7]]


def test_a_filter_and_what_cannot_be_written(snapshot, tmp_path):
    condition = "kind = 'image'"
    assert write(snapshot, tmp_path / "some", "clip-retrieval", condition) == len(
        eligible_rows(snapshot, condition)
    )
    with pytest.raises(ExportError, match="exists already"):
        write(snapshot, tmp_path / "some", "clip-retrieval")
    with pytest.raises(ExportError, match=r"no format 'csv'; there are clip-retrieval, parquet"):
        write(snapshot, tmp_path / "other", "csv")
    with pytest.raises(QueryError):
        write(snapshot, tmp_path / "other", "parquet", "no_such_column = 1")
    assert not (tmp_path / "other").exists()
    assert write(snapshot, tmp_path / "none", "clip-retrieval", "false") == 0
    assert list(read(tmp_path / "none")) == []


# Reading


def clip_retrieval(folder, matrices, paths, column="image_path"):
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    for number, (matrix, names) in enumerate(zip(matrices, paths, strict=True)):
        np.save(folder / f"img_emb/img_emb_{number}.npy", matrix)
        table = pa.table({column: names, "caption": [""] * len(names)})
        pq.write_table(table, folder / f"metadata/metadata_{number}.parquet")
    return folder


def test_files_are_read_in_the_order_of_their_numbers(tmp_path):
    matrices = [np.full((1, 4), number, np.float16) for number in range(12)]
    folder = clip_retrieval(tmp_path / "in", matrices, [[f"/{n}.jpg"] for n in range(12)])
    assert [some.paths[0] for some in read(folder)] == [f"/{n}.jpg" for n in range(12)]
    assert [some.embeddings[0, 0] for some in read(folder)] == list(range(12))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "metadata/metadata_0.parquet").unlink(), "1 files of embeddings .* and 0"),
        (
            lambda f: np.save(f / "img_emb/img_emb_0.npy", np.ones((3, 4))),
            "3 embeddings, .* 2 rows",
        ),
        (lambda f: np.save(f / "img_emb/img_emb_0.npy", np.ones(4)), "shape .*, not vectors"),
        (lambda f: (f / "img_emb/img_emb_0.npy").write_bytes(b"x"), "is no array of numbers"),
        (lambda f: (f / "metadata/metadata_0.parquet").write_bytes(b"x"), "is no Parquet file"),
    ],
)
def test_what_does_not_belong_together_is_told(tmp_path, spoil, said):
    folder = clip_retrieval(tmp_path / "in", [np.ones((2, 4), np.float32)], [["/a", "/b"]])
    assert len(list(read(folder))) == 1
    spoil(folder)
    with pytest.raises(ValueError, match=said):
        list(read(folder))


def test_columns_that_are_missing_are_told(tmp_path):
    folder = clip_retrieval(tmp_path / "in", [np.ones((1, 4))], [["/a"]], column="file")
    with pytest.raises(ValueError, match="names no pictures: it has the columns file, caption"):
        list(read(folder))
    pq.write_table(pa.table({"path": ["/a"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="has 0 columns of vectors"):
        list(read(tmp_path / "a.parquet"))
    uneven = pa.table({"path": ["/a", "/b"], "v": [[1.0, 2.0], [1.0]]})
    pq.write_table(uneven, tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="several lengths"):
        list(read(tmp_path / "b.parquet"))
    with pytest.raises(ValueError, match="holds no embeddings; give a folder with img_emb/"):
        list(read(tmp_path / "nothing"))


# Taking in


@pytest.fixture
def media(tmp_path):
    return write_pictures(tmp_path / "media", 8)


def files_of(folder):
    return sorted(str(path) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def made(tmp_path, media):
    """A collection of the pictures, and what it writes for others."""
    collection = Collection.create(tmp_path / "a.ps", encoder=ColourEncoder())
    collection.ingest(media)
    write(collection.snapshot, tmp_path / "out", "clip-retrieval")
    return collection, tmp_path / "out"


def test_embeddings_come_in_and_the_next_ingest_opens_nothing(made, media, tmp_path):
    collection, folder = made
    other = Collection.create(tmp_path / "b.ps", encoder=ColourEncoder())
    report = import_embeddings(other, read(folder))
    assert (report.adopted, report.known, report.failed) == (8, 0, [])
    assert report.least_cosine > 0.999
    picture = files_of(media)[0]
    mine = other.search(images=[picture], k=8)
    assert [(hit.path, round(hit.score, 5)) for hit in mine] == [
        (hit.path, round(hit.score, 5)) for hit in collection.search(images=[picture], k=8)
    ]
    again = other.ingest(media)
    assert (again.ingested, again.unchanged) == (0, 8)
    assert import_embeddings(other, read(folder)).known == 8
    assert other.verify() == []


def test_what_another_model_made_is_refused(made, media, tmp_path):
    rng = np.random.default_rng(0)
    names = files_of(media)
    dim = made[0].identity.dim
    wrong = clip_retrieval(tmp_path / "wrong", [rng.standard_normal((8, dim))], [names])
    other = Collection.create(tmp_path / "b.ps", encoder=ColourEncoder())
    with pytest.raises(CollectionMismatch, match=r"has a cosine of .* another model"):
        import_embeddings(other, read(wrong))
    assert len(other.snapshot.rows) == 0
    assert import_embeddings(other, read(wrong), trust=True).adopted == 8
    narrow = clip_retrieval(tmp_path / "narrow", [np.ones((8, 3))], [names])
    with pytest.raises(CollectionMismatch, match=rf"have 3 dimensions, the collection's {dim}"):
        import_embeddings(other, read(narrow))


def test_every_row_that_is_not_taken_is_named(made, media, tmp_path):
    names = files_of(media)[:2]
    (media / "notes.txt").write_text("words")
    names += [str(media / "gone.jpg"), str(media / "notes.txt"), None]
    dim = made[0].identity.dim
    matrix = np.ones((5, dim), np.float32)
    matrix[1] = np.nan
    folder = clip_retrieval(tmp_path / "in", [matrix], [names])
    other = Collection.create(tmp_path / "b.ps", encoder=ColourEncoder())
    report = import_embeddings(other, read(folder), trust=True)
    assert report.adopted == 1
    said = [file.outcome for file in report.failed]
    assert said == ["bad_embedding", "unreadable", "not_an_image", "unreadable"]


def test_the_commands(tmp_path, run):
    folder = make(tmp_path / "c.ps", 20)
    code, out, _ = run("export-embeddings", folder, "--to", tmp_path / "x.parquet", "--json")
    assert code == 0
    assert json.loads(out)["rows"] == len(Snapshot.open(folder).searchable)
    code, _, err = run("export-embeddings", folder, "--to", tmp_path / "x.parquet")
    assert code == 1
    assert "exists already" in err
    code, out, err = run("import-embeddings", folder, tmp_path / "x.parquet", "--trust")
    assert code == 0
    assert out == f"0 adopted, 0 known, {len(Snapshot.open(folder).searchable)} failed\n"
    assert "cannot be read here" in err
    code, _, err = run("import-embeddings", folder, tmp_path / "nothing")
    assert code == 1
    assert "holds no embeddings" in err
    assert sys.argv[1] == "import-embeddings"
