"""What the generations of Cloud TPU can do, the slices one can have of them, and the time bounds that follow.

Sources. v2, v3: Jouppi et al., "A domain-specific supercomputer for training deep neural networks", CACM 63(7), 2020,
table 3 (per chip of 2 cores: 46 and 123 TFLOP/s, 16 and 32 GiB, 700 and 900 GB/s, 700 and 940 MHz, 4 links of 496 and
656 Gbit/s). v4: Jouppi et al., "TPU v4", ISCA 2023, table 4 (275 TFLOP/s, 32 GiB, 1200 GB/s, 1050 MHz, 6 links of
50 GB/s, 2 cores). v5e, v6e: cloud.google.com/tpu/docs/v5e and /v6e (197 and 918 TFLOP/s, 16 and 32 GB, 819 and
1640 GB/s, 1600 and 3200 Gbit/s over 4 links, 1 core). Slices: cloud.google.com/tpu/docs/supported-tpu-configurations.
The memory that a program can have is what the compiler of libtpu 0.0.51 leaves it; it keeps the rest for itself.
"""

from __future__ import annotations

import dataclasses
import math
import re

GIB = 2**30


class UnknownTpu(ValueError):
    """No TPU has that name; the message lists those that do."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation, per core.

    Attributes:
        name: as in the names of slices: "v3".
        peak_flops: of the matrix units in bfloat16, FLOP/s of a core.
        hbm_bytes: memory that a program can have, of a core.
        hbm_gb_per_second: 10^9 bytes/s of a core.
        link_gb_per_second: of one link of a chip, one way.
        cores: on a chip; they share its links and reduce among themselves first.
        mhz: clock; None where Google has not published one.
    """

    name: str
    peak_flops: float
    hbm_bytes: int
    hbm_gb_per_second: float
    link_gb_per_second: float
    cores: int
    mhz: float | None


CHIPS = {chip.name: chip for chip in (
    Chip("v2", 46e12 / 2, int(7.48 * GIB), 700 / 2, 496 / 8, 2, 700),
    Chip("v3", 123e12 / 2, int(15.48 * GIB), 900 / 2, 656 / 8, 2, 940),
    # The compiler gives each core of a v4 its half of the memory. The driver of a TPU VM may join the two to one.
    Chip("v4", 275e12 / 2, int(15.25 * GIB), 1200 / 2, 50, 2, 1050),
    Chip("v5e", 197e12, int(15.75 * GIB), 819, 50, 1, None),
    Chip("v6e", 918e12, int(31.25 * GIB), 1640, 100, 1, None),
)}

_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16", 512: "16x32",
         1024: "32x32"}
_DEEP = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8",
         1024: "8x8x16", 2048: "8x16x16"}
# By chips: the slices that Google offers. Names of v2, v3 and v4 count cores, those of v5e and v6e chips.
_OFFERED = {"v2": (4, 16, 64, 128, 256), "v3": (4, 16, 64, 128, 256, 512, 1024), "v4": tuple(_DEEP),
            "v5e": (1, 4, 8, 16, 32, 64, 128, 256), "v6e": (1, 4, 8, 16, 32, 64, 128, 256)}


@dataclasses.dataclass(frozen=True)
class Bound:
    """Seconds that one run takes a core at least, by each limit.

    Attributes:
        arithmetic: of products and convolutions at the peak of the matrix units.
        memory: of the bytes at the bandwidth of HBM.
        all_reduce: of the bytes that the cores exchange.
        compiler: what the compiler itself expects all instructions to take, one after the other; it knows more (vector
            units, short products), and is an estimate and no bound. None without a published clock.
    """

    arithmetic: float
    memory: float
    all_reduce: float
    compiler: float | None

    @property
    def seconds(self) -> float:
        """The longest of the three: they may overlap, so that no run can be shorter."""
        return getattr(self, self.by)

    @property
    def by(self) -> str:
        """What sets it: "arithmetic", "memory" or "all_reduce"."""
        return max(("arithmetic", "memory", "all_reduce"), key=lambda name: getattr(self, name))


@dataclasses.dataclass(frozen=True)
class Tpu:
    """A slice: some chips that one can have together.

    Attributes:
        name: "v3-8".
        chip: its generation.
        topology: for the compiler: "v3:2x2".
        chips: how many.
    """

    name: str
    chip: Chip
    topology: str
    chips: int

    @property
    def cores(self) -> int:
        """Replicas of a data-parallel step."""
        return self.chips * self.chip.cores

    @property
    def all_reduce_gb_per_second(self) -> float:
        """That a chip can send in an all-reduce: one link for each dimension that has more than one chip.

        Rings in every dimension at once use as many; those that close around a whole pod could use twice that.
        """
        return self.chip.link_gb_per_second * sum(size > 1 for size in _sizes(self.topology))

    def bound(self, costs, replicas: int) -> Bound:
        """Time bounds of one run of a program.

        Args:
            costs: `tfhf.preflight.hlo.Costs` of one core.
            replicas: cores that run it together.
        """
        chip, chips = self.chip, -(-replicas // self.chip.cores)
        # A ring's reduce-scatter and all-gather each send (n - 1) / n of the bytes. Cores of one chip have its memory.
        sent = 2 * (chips - 1) / chips * costs.all_reduce_bytes
        return Bound(arithmetic=costs.flops / chip.peak_flops, memory=costs.bytes / (chip.hbm_gb_per_second * 1e9),
                     all_reduce=sent / (self.all_reduce_gb_per_second * 1e9) if sent else 0.0,
                     compiler=costs.cycles / (chip.mhz * 1e6) if chip.mhz else None)

    def mfu(self, model_flops: float, seconds: float) -> float:
        """Model FLOP utilisation, 0 to 1: FLOP of one core, recomputation left out, over its peak for `seconds`."""
        return model_flops / (seconds * self.chip.peak_flops)


def tpu_named(name: str) -> Tpu:
    """The slice "v3-8", or "v3:4x4" by its chips; v5litepod-8 is v5e-8.

    Raises:
        UnknownTpu: no such generation or size.
    """
    generation, separator, size = name.replace("v5litepod", "v5e").partition(":" if ":" in name else "-")
    chip = CHIPS.get(generation)
    if chip is None or not separator:
        raise UnknownTpu(f"TPU {name!r}: expected one of {', '.join(CHIPS)} and a size, such as v3-8 or v3:2x2")
    if separator == ":":
        if not re.fullmatch(r"\d+(x\d+){1,2}", size):
            raise UnknownTpu(f"TPU {name!r}: expected chips such as {'2x2x1' if generation == 'v4' else '2x2'}")
        return Tpu(name, chip, f"{generation}:{size}", math.prod(_sizes(size)))
    per_size = chip.cores if generation in ("v2", "v3", "v4") else 1
    shapes = _DEEP if generation == "v4" else _FLAT
    sizes = {str(chips * per_size): chips for chips in _OFFERED[generation]}
    if size not in sizes:
        raise UnknownTpu(f"TPU {name!r}: {generation} comes as {', '.join(f'{generation}-{s}' for s in sizes)}")
    return Tpu(f"{generation}-{size}", chip, f"{generation}:{shapes[sizes[size]]}", sizes[size])


def _sizes(topology: str) -> list[int]:
    return [int(size) for size in topology.split(":")[-1].split("x")]
