"""Segments as SubRip and WebVTT subtitles."""


def _time(seconds, comma):
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    whole, part = divmod(rest, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{comma}{part:03d}"


def _blocks(segments, comma, escape):
    for number, segment in enumerate(segments, 1):
        # A blank line would end the cue, an arrow would begin another one.
        text = " ".join(segment["text"].split()).replace("-->", "->")
        yield number, f"{_time(segment['start'], comma)} --> {_time(segment['end'], comma)}", escape(text)


def to_srt(segments):
    """SubRip text of segments with `start` and `end` in seconds and `text`."""
    return "".join(f"{number}\n{span}\n{text}\n\n" for number, span, text in _blocks(segments, ",", str))


def to_vtt(segments):
    """WebVTT text of segments with `start` and `end` in seconds and `text`."""
    def escape(text):
        return text.replace("&", "&amp;").replace("<", "&lt;")
    return "WEBVTT\n\n" + "".join(f"{span}\n{text}\n\n" for _, span, text in _blocks(segments, ".", escape))
