"""Parquet tables: the mapped matrix is the column that everyone else reads."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perception_search import tables


def rows(count, dim=24, first=0):
    rng = np.random.default_rng(first)
    matrix = rng.standard_normal((count, dim)).astype(np.float16)
    return pa.table(
        [
            pa.array(np.arange(first, first + count)),
            pa.array([f"{n:064x}" for n in range(count)]),
            pa.array(["image"] * count),
            pa.nulls(count, pa.float64()),
            pa.nulls(count, pa.float64()),
            pa.array([1] * count, pa.int32()),
            pa.array(np.ones(count, np.float32)),
            *tables.embedding_arrays(matrix),
        ],
        schema=tables.rows_schema(dim),
    ), matrix


@pytest.mark.parametrize("count", [1, 7, 65_536, 65_537, 150_000])
def test_the_mapped_matrix_equals_what_any_reader_reads(tmp_path, count):
    table, matrix = rows(count)
    path = tmp_path / "rows.parquet"
    with path.open("wb") as file:
        assert tables.write(file, table.schema, [table]) == count
    mapped = tables.map_embeddings(path, 24)
    assert all(isinstance(part, np.memmap) for part in mapped)
    assert max(map(len, mapped)) <= tables.ROWS_PER_GROUP
    assert np.array_equal(np.concatenate(mapped), matrix)
    column = pq.read_table(path)["embedding"].combine_chunks()
    read = column.flatten().to_numpy().reshape(count, 24)
    assert np.array_equal(read, matrix)
    assert tables.read(path, ["row_id"])["row_id"].to_pylist() == list(range(count))


@pytest.mark.parametrize("how", [{"compression": "zstd"}, {"data_page_size": 1024}])
def test_a_file_written_by_others_is_read_instead(tmp_path, how):
    table, matrix = rows(5000)
    path = tmp_path / "rows.parquet"
    pq.write_table(table.replace_schema_metadata(None), path, **how)
    [part] = tables.map_embeddings(path, 24)
    assert not isinstance(part, np.memmap)
    assert np.array_equal(part, matrix)


def test_small_parts_are_merged_into_full_groups():
    parts = [rows(n)[0] for n in (10, 0, 65_530, 70_000, 3)]
    sizes = [part.num_rows for part in tables.regroup(parts)]
    assert sizes == [65_536, 65_536, 4471]
    file = io.BytesIO()
    assert tables.write(file, parts[0].schema, parts) == sum(sizes)


def test_a_flipped_bit_in_a_page_is_noticed(tmp_path):
    table, _ = rows(1000)
    path = tmp_path / "rows.parquet"
    with path.open("wb") as file:
        tables.write(file, table.schema, [table])
    content = bytearray(path.read_bytes())
    content[pq.read_metadata(path).row_group(0).column(8).data_page_offset + 5000] ^= 4
    path.write_bytes(content)
    with pytest.raises(OSError, match="CRC"):
        tables.read(path)
