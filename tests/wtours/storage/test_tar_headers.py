import io
import random
import struct
import tarfile

import pytest

from wtours.storage.tar_headers import read_headers

CONTENT = {"a/1.jpg": b"x" * 700, "b/" + "n" * 150 + ".jpg": b"", "c/\u00e9.png": b"y" * 512}


def packed(form=tarfile.PAX_FORMAT):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, data in CONTENT.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for kind, target in ((tarfile.SYMTYPE, "t" * 160), (tarfile.LNKTYPE, "a/1.jpg")):
            member = tarfile.TarInfo("link")
            member.type, member.linkname = kind, target
            tar.addfile(member)
    return file.getvalue()


def refused(data):
    with pytest.raises(tarfile.ReadError) as caught:
        list(read_headers(io.BytesIO(data)))
    return str(caught.value)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_members_come_as_tarfile_has_them(form):
    data = packed(form)
    members = list(read_headers(io.BytesIO(data)))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(m.name, m.size, m.offset_data, m.linkname) for m in tar]
    assert [(m.name, m.size, m.offset, m.target) for m in members] == expected
    assert [m.kind for m in members] == ["file"] * 3 + ["symbolic link", "hard link"]
    for member, content in zip(members, CONTENT.values(), strict=False):
        assert data[member.offset : member.offset + member.size] == content


@pytest.mark.parametrize("zeros", [0, 10240, 3 * 2**20])
def test_two_tars_in_one_file_are_refused_not_read_by_half(zeros):
    data = packed()
    assert len(list(read_headers(io.BytesIO(data + bytes(zeros))))) == 5
    assert len(list(read_headers(io.BytesIO(data + bytes(zeros) + b"no header" * 100)))) == 5
    assert "another tar follows its end" in refused(data + bytes(zeros) + data)


def with_checksum(block):
    block = bytearray(block)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_a_negative_size_is_refused_not_followed_back():
    block = bytearray(tarfile.TarInfo("a.jpg").tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" + struct.pack(">q", -1024).rjust(11, b"\xff")
    assert "a size of -1024 bytes" in refused(with_checksum(block) + bytes(1024))


@pytest.mark.parametrize(
    "records", [b"9" * 2**19, b"0 path=x\n", b"99 path=x\n", b"9 path=xxx", b"7 path\n"]
)
def test_a_pax_header_that_is_none_is_refused_at_once(records):
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    data = header.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)
    assert "no record at 0" in refused(data + packed())


@pytest.mark.parametrize("size", ["-1", "\u0663", "1" * 20, ""])
def test_a_pax_size_that_is_none_is_refused(size):
    value = f"size={size}\n".encode()
    record = b"%d " % (len(value) + 3) + value
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(record)
    data = header.tobuf(tarfile.USTAR_FORMAT) + record + bytes(-len(record) % 512)
    assert "pax header at byte 0" in refused(data + packed())


def test_a_name_of_a_gigabyte_is_not_read():
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**30
    assert "a name of 1073741824 bytes" in refused(header.tobuf(tarfile.GNU_FORMAT) + bytes(2048))


def test_a_tar_cut_anywhere_is_refused():
    data = packed()
    end = max(m.offset + -(-m.size // 512) * 512 for m in read_headers(io.BytesIO(data)))
    for length in (*range(0, end, 256), end):
        assert "cut after" in refused(data[:length])


def test_damaged_headers_end_in_a_refusal_or_in_members():
    data, generator = packed(), random.Random(0)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(generator.choice([1, 2, 8])):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        try:
            members = list(read_headers(io.BytesIO(bytes(damaged))))
        except tarfile.ReadError:
            continue
        assert all(0 <= m.offset + m.size <= len(data) for m in members)
