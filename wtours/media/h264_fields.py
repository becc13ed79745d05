"""Which packets of H.264 hold only the second field of a frame (ITU-T H.264, 7.3.2.1 and 7.3.3).

AVCHD's 1080i is coded field by field, in most containers a packet a field: two packets, one frame.
"""

from collections.abc import Iterator

_HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
_SLICE, _IDR_SLICE, _SPS = 1, 5, 7
_HEADER_BYTES = 64
"""Of a slice: its header up to the field flags is shorter."""


class FieldPairing:
    """Tells the second fields of a stream; push every packet, in the order of the file.

    Args:
        extradata: The codec's, Annex B or avcC; None: the parameter sets are in the packets.

    Attributes:
        may_have_fields: The stream can hold fields, as far as is known.
    """

    def __init__(self, extradata: bytes | None) -> None:
        self._length_size = 0
        self._frame_num_bits = 0
        self.may_have_fields = False
        self._separate_planes = False
        self._open_field: tuple[int, bool] | None = None  # frame_num, is bottom
        if extradata and extradata[0] == 1 and len(extradata) > 8:  # avcC
            self._length_size = (extradata[4] & 3) + 1
            size = int.from_bytes(extradata[6:8], "big")
            self._read_sps(extradata[8 : 8 + size])
        elif extradata:
            for unit in _annex_b_units(extradata):
                self._read_unit(unit)

    def is_second_field(self, packet: bytes) -> bool:
        """Return whether the packet is the second field of the frame before it, and no more."""
        units = self._length_units(packet) if self._length_size else _annex_b_units(packet)
        pictures = [found for unit in units if (found := self._read_unit(unit)) is not None]
        is_second = False
        for number, field in enumerate(pictures):
            if isinstance(field, str):
                self._open_field = None
                continue
            frame_num, is_bottom = field
            if self._open_field == (frame_num, not is_bottom):
                self._open_field = None
                is_second = number == 0 and len(pictures) == 1
            else:
                self._open_field = (frame_num, is_bottom)
        return is_second

    def _length_units(self, packet: bytes) -> Iterator[bytes]:
        place = 0
        while place + self._length_size < len(packet):
            size = int.from_bytes(packet[place : place + self._length_size], "big")
            place += self._length_size
            yield packet[place : place + min(size, 4096)]
            place += size

    def _read_unit(self, unit: bytes) -> "tuple[int, bool] | str | None":
        """Return what picture begins in a NAL unit: a field, "frame", or None (none begins)."""
        kind = unit[0] & 31 if unit else 0
        if kind == _SPS:
            self._read_sps(unit)
        if kind not in (_SLICE, _IDR_SLICE):
            return None
        try:
            bits = _Bits(unit[1:_HEADER_BYTES])
            if bits.unsigned() != 0:  # first_mb_in_slice: not the first slice of its picture
                return None
            bits.unsigned()  # slice_type
            bits.unsigned()  # pic_parameter_set_id
            if self._separate_planes:
                bits.read(2)
            frame_num = bits.read(self._frame_num_bits)
            if not self.may_have_fields or not bits.read(1):
                return "frame"
            return frame_num, bool(bits.read(1))
        except EOFError:
            return None

    def _read_sps(self, unit: bytes) -> None:
        try:
            bits = _Bits(unit[1:])
            profile = bits.read(8)
            bits.read(16)
            bits.unsigned()
            separate, chroma = False, 1
            if profile in _HIGH_PROFILES:
                chroma = bits.unsigned()
                separate = bool(chroma == 3 and bits.read(1))
                bits.unsigned()
                bits.unsigned()
                bits.read(1)
                if bits.read(1):  # seq_scaling_matrix_present_flag
                    for number in range(12 if chroma == 3 else 8):
                        if bits.read(1):
                            _skip_scaling_list(bits, 16 if number < 6 else 64)
            frame_num_bits = bits.unsigned() + 4
            order_type = bits.unsigned()
            if order_type == 0:
                bits.unsigned()
            elif order_type == 1:
                bits.read(1)
                bits.signed()
                bits.signed()
                for _ in range(min(bits.unsigned(), 255)):
                    bits.signed()
            bits.unsigned()
            bits.read(1)
            bits.unsigned()
            bits.unsigned()
            frames_only = bool(bits.read(1))
        except EOFError:
            return
        self._separate_planes, self.may_have_fields = separate, not frames_only
        self._frame_num_bits = min(frame_num_bits, 16)


class _Bits:
    """Reads a NAL unit's payload bit by bit, without its emulation prevention bytes."""

    def __init__(self, payload: bytes) -> None:
        data = payload.replace(b"\0\0\3", b"\0\0")
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def read(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise EOFError
        return self._value >> self._left & ((1 << count) - 1)

    def unsigned(self) -> int:
        """Return the next Exp-Golomb code, ue(v)."""
        zeros = 0
        while not self.read(1):
            zeros += 1
            if zeros > 31:
                raise EOFError
        return (1 << zeros) - 1 + self.read(zeros)

    def signed(self) -> int:
        code = self.unsigned()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last


def _annex_b_units(data: bytes) -> Iterator[bytes]:
    """Yield the beginnings of the NAL units between start codes."""
    place = data.find(b"\0\0\1")
    while place >= 0:
        following = data.find(b"\0\0\1", place + 3)
        end = len(data) if following < 0 else following
        yield data[place + 3 : min(end, place + 4099)]
        place = following
