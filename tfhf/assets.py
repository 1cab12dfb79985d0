"""placeholder"""


class AssetUnavailable(RuntimeError):
    """x"""


def fetch(name):
    """x"""
    raise AssetUnavailable(name)
