"""What the readers of sound files share: their error, and the piece of a file that one decoder reads in one go."""

import dataclasses

EXPECTED = "expected a whole WAV, FLAC, MP3 or Ogg file"


class AudioError(ValueError):
    """A sound that cannot be used; the message names the file, what was got and what was expected."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A stream that a decoder reads from its beginning to its end. Joined files have several.

    Attributes:
      data: a whole file in a format that the decoder knows.
      samples: of each channel, where the file states it exactly: what the decoder must give. More is cut off.
      demuxer: ffmpeg's name of the format; None: libsndfile decodes it.
      what: what errors call a format that ffmpeg decodes.
      estimated: libsndfile takes its own estimate of the length for the end. `data` must seem longer than it is.
    """

    data: bytes
    samples: int | None = None
    demuxer: str | None = None
    what: str = ""
    estimated: bool = False
