"""The inner loops of the PLY reader and writer, compiled: rows of a table to the fields of Gaussians, and back."""

from __future__ import annotations

from numba import njit

from pixworld.kernel_cache import stamped


@njit(nogil=True, cache=True)
@stamped
def unpack(table, columns, means, sh, logits, logs, quats):
    """Take table [m, properties] apart; column columns[i] holds the i-th of x y z, f_dc, f_rest, opacity, scale, rot.

    f_rest is channel-major in the table; sh [m, k, 3] has the channels last. All float32.
    """
    bands = sh.shape[1] - 1
    rest, tail = columns[6:], columns[6 + 3 * bands :]
    for i in range(table.shape[0]):
        row = table[i]
        for j in range(3):
            means[i, j] = row[columns[j]]
            sh[i, 0, j] = row[columns[3 + j]]
            logs[i, j] = row[tail[1 + j]]
        for j in range(bands):
            for channel in range(3):
                sh[i, 1 + j, channel] = row[rest[channel * bands + j]]
        logits[i] = row[tail[0]]
        for j in range(4):
            quats[i, j] = row[tail[4 + j]]


@njit(nogil=True, cache=True)
@stamped
def pack(table, means, sh, logits, logs, quats):
    """Fill table [m, 17 + 3 (k - 1)] in the canonical order; its normals (columns 3 to 5) are left alone."""
    bands = sh.shape[1] - 1
    tail = 9 + 3 * bands
    for i in range(table.shape[0]):
        row = table[i]
        for j in range(3):
            row[j] = means[i, j]
            row[6 + j] = sh[i, 0, j]
            row[tail + 1 + j] = logs[i, j]
        for j in range(bands):
            for channel in range(3):
                row[9 + channel * bands + j] = sh[i, 1 + j, channel]
        row[tail] = logits[i]
        for j in range(4):
            row[tail + 4 + j] = quats[i, j]
