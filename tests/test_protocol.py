import random
import time

import msgpack
import numpy as np
import pytest

from backend import protocol
from backend.protocol import DTYPES, PROTOCOL, ProtocolError, decode, encode


def pack(header=None, arrays=(), **outer):
    return msgpack.packb({"protocol": PROTOCOL, "header": header or {}, "arrays": list(arrays), **outer})


def code(frames):
    with pytest.raises(ProtocolError) as caught:
        decode(frames)
    return caught.value.code


def test_round_trip():
    header = {"text": "Zürich", "none": None, "flag": True, "list": [1, -2.5, [2**63]], "map": {"a": {}}}
    arrays = {dtype: np.arange(6).reshape(2, 3).astype(dtype) for dtype in DTYPES}
    arrays |= {"scalar": np.array(3.0), "empty": np.zeros((0, 3), np.float32)}
    arrays["strided"] = np.arange(24, dtype=np.int32).reshape(4, 6)[::2, ::-2].T
    back_header, back = decode([bytes(frame) for frame in encode(header, arrays)])
    assert back_header == header
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape
        np.testing.assert_array_equal(back[name], array)


def test_decode_copies_nothing():
    frames = encode({}, {"a": np.arange(1000, dtype=np.float32)})
    frames[1] = bytes(frames[1])
    _, arrays = decode(frames)
    assert np.shares_memory(arrays["a"], np.frombuffer(frames[1], np.uint8))
    assert not arrays["a"].flags.writeable


def test_decode_aligns():
    buffer = bytearray(4 * 3 + 1)
    _, arrays = decode([pack(arrays=[["a", "<f4", [3]]]), memoryview(buffer)[1:]])
    assert arrays["a"].flags.aligned


@pytest.mark.parametrize("dtype", [object, bool, ">f4", "U3", "c8", "M8[s]", "u2", "V8"])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ProtocolError, match="'mask'") as caught:
        encode({}, {"mask": np.zeros(3, dtype)})
    assert caught.value.code == "BAD_ARRAY"
    assert code([pack(arrays=[["mask", np.dtype(dtype).str, [0]]]), b""]) == "BAD_ARRAY"


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), b"bytes", {1: 2}, {"s": {1}}, 2**64, np.float32(1), "\ud800"]
)
def test_other_header_values_are_refused(value):
    with pytest.raises(ProtocolError) as caught:
        encode({"value": value})
    assert caught.value.code == "BAD_MESSAGE"


@pytest.mark.parametrize(
    "head",
    [
        b"",
        pack()[:-1],
        pack() + b"\xc0",
        b"\xc1",
        b"\x91" * 5000 + b"\xc0",
        b"\xdd\xff\xff\xff\xff",  # a list of 2^32 - 1
        b"\xdf\xff\xff\xff\xff",
        b"\x82\xa8protocol\x01\xa8protocol\x01",
        pack({"a": msgpack.ExtType(5, b"x")}),
        pack({"a": msgpack.Timestamp(0)}),
        pack({"a": float("nan")}),
        pack({"a": b"bytes"}),
        pack({"a": {1: 2}}),
        pack(extra=1),
        pack(header=[1]),
        msgpack.packb({"protocol": PROTOCOL}),
        msgpack.packb([1, 2]),
        msgpack.packb(7),
    ],
)
def test_malformed_headers_are_refused_at_once(head):
    started = time.process_time()
    assert code([head]) == "BAD_MESSAGE"
    assert time.process_time() - started < 0.05


@pytest.mark.parametrize(
    "row",
    [
        ["a", "<f4", [2]],
        ["a", "<f4", [-2]],
        ["a", "<f4", [True, 1]],
        ["a", "<f4", [1.0]],
        ["a", "<f4", 1],
        ["a", "<f4", [1] * 9],
        ["a", "<f4", [2**62, 2**62]],
        ["a", ["<f4"], [1]],
        ["a", "<f4"],
        [1, "<f4", [1]],
        "a",
    ],
)
def test_arrays_that_do_not_fit_their_frame_are_refused(row):
    assert code([pack(arrays=[row]), bytes(4)]) == "BAD_ARRAY"


def test_frames_must_be_those_of_the_table():
    row = ["a", "<f4", [1]]
    assert code([pack(arrays=[row])]) == "BAD_MESSAGE"
    assert code([pack(), bytes(4)]) == "BAD_MESSAGE"
    assert code([]) == "BAD_MESSAGE"
    assert code([pack(arrays=[row, row]), bytes(4), bytes(4)]) == "BAD_ARRAY"


def test_another_version_names_both():
    with pytest.raises(ProtocolError, match=r"protocol 7.*protocol 1") as caught:
        decode([pack(protocol=7)])
    assert caught.value.code == "UNSUPPORTED"


def test_limits(monkeypatch):
    deep = {}
    for _ in range(protocol.MAX_DEPTH + 1):
        deep = {"a": deep}
    with pytest.raises(ProtocolError, match="nested"):
        encode(deep)
    assert code([pack(deep)]) == "BAD_MESSAGE"
    encode(deep["a"])
    decode([pack(deep["a"])])

    monkeypatch.setattr(protocol, "MAX_HEADER", 100)
    monkeypatch.setattr(protocol, "MAX_ARRAYS", 2)
    monkeypatch.setattr(protocol, "MAX_BYTES", 8)
    for header, arrays in [
        ({"a": "x" * 100}, {}),
        ({}, {name: np.zeros(1, np.uint8) for name in "abc"}),
        ({}, {"a": np.zeros(9, np.uint8)}),
    ]:
        with pytest.raises(ProtocolError) as caught:
            encode(header, arrays)
        assert caught.value.code == "TOO_LARGE"
    assert code([pack({"a": "x" * 100})]) == "TOO_LARGE"
    assert code([pack(arrays=[["a", "|u1", [9]]]), bytes(9)]) == "TOO_LARGE"


def test_damaged_messages_never_raise_anything_else():
    random.seed(0)
    good = [bytes(f) for f in encode({"op": "submit", "fields": {"a": [1, 2.5, "x"]}}, {"a": np.ones((3, 2), "f4")})]
    refused = 0
    for _ in range(5000):
        frames = [bytearray(frame) for frame in good]
        for _ in range(random.randint(1, 4)):
            frame = random.choice(frames)
            kind, at = random.randrange(4), random.randrange(len(frame) + 1)
            if kind == 0 and at < len(frame):
                frame[at] = random.randrange(256)
            elif kind == 1:
                del frame[at : at + random.randint(1, 5)]
            elif kind == 2:
                frame[at:at] = random.randbytes(random.randint(1, 5))
            elif kind == 3:
                frames.insert(random.randrange(len(frames) + 1), bytearray(random.randbytes(3)))
        try:
            header, arrays = decode(frames)
        except ProtocolError:
            refused += 1
        else:
            encode(header, arrays)
    assert refused > 2000
