"""The command line of `tfhf serve`; as a process it stands in test_load.py."""

from tfhf.server.command import main, parser

def test_what_cannot_be_served_is_told(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: no SavedModel")


def test_loopback_is_the_default():
    assert parser().parse_args(["x"]).host == "127.0.0.1"
