"""A folder of images: classes by folder, pairs by name, stereo, DIV2K, NYUv2's depth.

Layouts, recognised by themselves but for the two that name folders (--layout forces one):
  classes    SPLIT/CLASS/*.jpg, or CLASS/*.jpg (all train) -> image_label; the manifest has the names of the classes
  originals  SPLIT/*.png, or *.png -> image_pair of the target alone; the task makes the image of it (Set5, Set14)
  div2k      DIV2K_train_HR/0001.png and DIV2K_train_LR_bicubic/X4/0001x4.png, and valid -> image_pair (--scale)
  nyu        [SPLIT/]rgb/*.jpg and depth/*.png, or [SPLIT/]SCENE/rgb_*.jpg and sync_depth_*.png -> image_depth
  pairs      --pairs A B: files of one name in A and B, or SPLIT/A and SPLIT/B -> image_pair, image and target
  stereo     --stereo LEFT RIGHT [DISPARITY]: the same, in any folder below (KITTI raw: image_02/data image_03/data;
             KITTI 2015: image_2 image_3 disp_occ_0, scale 1/256) -> stereo; --list SPLIT=FILE, with a line
             `LEFT_FILE …` for each, as Godard's and Eigen's lists, says which files
Depth and disparity are 16-bit grey PNGs, 0 is invalid. Licence and origin are the data's own: --licence, --origin.
"""

import os

from tfhf.data import storage
from tfhf.data.image_records import image_depth, image_label, image_pair, stereo
from tfhf.data.schema import IMAGE_DEPTH, IMAGE_LABEL, IMAGE_PAIR, STEREO, RecordError
from tfhf.data.writing import Dataset, listing_sha256
from tfrecords.audiofolder import SPLIT_NAMES, refuse_double_ids

IMAGES = (".jpg", ".jpeg", ".png", ".gif", ".bmp")
_OTHER_IMAGES = (".webp", ".tif", ".tiff", ".heic", ".avif", ".jp2", ".ppm")
LAYOUTS = {"classes": IMAGE_LABEL, "originals": IMAGE_PAIR, "div2k": IMAGE_PAIR, "nyu": IMAGE_DEPTH,
           "pairs": IMAGE_PAIR, "stereo": STEREO}


def add_arguments(parser):
    parser.add_argument("--folder", required=True, help="folder or gs://…")
    parser.add_argument("--layout", choices=tuple(LAYOUTS), help="how the folder is laid out (recognised)")
    parser.add_argument("--pairs", nargs=2, metavar=("A", "B"), help="folders of the images and of their targets")
    parser.add_argument("--stereo", nargs="+", metavar="FOLDER", help="folders of left, right and, if any, disparity")
    parser.add_argument("--list", action="append", default=[], metavar="SPLIT=FILE", help="the stereo pairs to take")
    parser.add_argument("--scale", type=int, default=4, help="of DIV2K's small images (%(default)s)")
    parser.add_argument("--depth-scale", type=float, default=0.001, help="metres per unit of depth (%(default)s)")
    parser.add_argument("--disparity-scale", type=float, default=1 / 256, help="pixels per unit (%(default)s)")
    parser.add_argument("--licence", default="unknown")
    parser.add_argument("--origin", default="")


def open_dataset(arguments):
    return ImageFolder(arguments.folder, layout=arguments.layout, pairs=arguments.pairs, stereo=arguments.stereo,
                       lists=arguments.list, scale=arguments.scale, depth_scale=arguments.depth_scale,
                       disparity_scale=arguments.disparity_scale, licence=arguments.licence, origin=arguments.origin)


class ImageFolder(Dataset):
    """See the module's docstring. Folders are listed when this is made; images are read by `load`."""

    name = "imagefolder"

    def __init__(self, folder, *, layout=None, pairs=None, stereo=None, lists=(), scale=4, depth_scale=0.001,
                 disparity_scale=1 / 256, licence="unknown", origin=""):
        self._folder, self._scale = os.fspath(folder), scale
        self._depth_scale, self._disparity_scale = depth_scale, disparity_scale
        self.licence, self.origin, self.classes = licence, origin, None
        self._listings = {}   # asked once: on gs:// each is a request
        if not self._list(""):
            raise RecordError(f"{self._folder}: no such folder, or empty; expected images, or folders of them")
        self._layout = layout or ("pairs" if pairs else "stereo" if stereo else self._recognise())
        for wanted, given in (("pairs", pairs), ("stereo", stereo)):
            if (self._layout == wanted) != bool(given):
                raise RecordError(f"--layout {self._layout}: got --{wanted} {given}, expected it with layout {wanted}, "
                                  "and only there")
        if stereo and len(stereo) not in (2, 3):
            raise RecordError(f"--stereo {' '.join(stereo)}: expected LEFT RIGHT or LEFT RIGHT DISPARITY")
        if lists and not stereo:
            raise RecordError(f"--list {lists[0]}: expected it with --stereo only")
        self.record_type = LAYOUTS[self._layout]
        rows = {"classes": self._classes, "originals": self._originals, "div2k": self._div2k, "nyu": self._nyu,
                "pairs": lambda: self._side_by_side(pairs), "stereo": lambda: self._side_by_side(stereo)}[self._layout]
        self._items = {}
        for split, item in rows():
            self._items.setdefault(split, []).append(item)
        if lists:
            self._items = self._listed(lists)
        if not self._items:
            raise RecordError(f"{self._folder}: no images in layout {self._layout}; it holds {self._list('')[:8]}")
        for split, items in self._items.items():
            refuse_double_ids(self._folder, split, items)

    def splits(self):
        return tuple(self._items)

    def options(self, split):
        options = {"layout": self._layout, "listing_sha256": listing_sha256(
            (item["id"], *item["files"], str(item.get("label", ""))) for item in self._items[split])}
        if self._layout == "classes":
            options["classes"] = self.classes
        if self._layout == "div2k":
            options["scale"] = self._scale
        if self._layout == "nyu":
            options["depth"] = {"unit": "metre", "scale": self._depth_scale, "invalid": 0}
        if self._layout == "stereo":
            options["disparity"] = {"unit": "pixel", "scale": self._disparity_scale, "invalid": 0}
        return options

    def examples(self, split, start=0):
        return iter(self._items[split][start:])

    def load(self, item):
        names = [self._path(file) for file in item["files"]]
        files = [storage.read_bytes(name) for name in names]
        if self._layout == "classes":
            return image_label(item["id"], files[0], item["label"], names[0])
        if self._layout == "originals":
            return image_pair(item["id"], b"", files[0], (None, names[0]))
        if self._layout == "nyu":
            return image_depth(item["id"], *files, self._depth_scale, names)
        if self._layout == "stereo":
            return stereo(item["id"], *files[:2], names, *files[2:], disparity_scale=self._disparity_scale)
        return image_pair(item["id"], *files, names)

    # Where the files are. Each gives (split, {"id", "files": paths in the folder, …}) in a fixed order.

    def _recognise(self):
        names = self._list("")
        if any(name.startswith("DIV2K_") and name.endswith("_HR") for name in names):
            return "div2k"
        if any(True for _ in self._nyu()):
            return "nyu"
        below = [name for name in self._folders("") if self._images(name)]
        if self._images("") and below:
            raise RecordError(f"{self._folder}: images beside folders of images, {below[:3]}; expected --layout "
                              "originals or classes")
        if self._images("") or any(name in SPLIT_NAMES for name in below):
            return "originals"
        splits = self._folders("")
        if below or any(self._images(_join(split, name)) for split in splits for name in self._folders(split)):
            return "classes"
        raise RecordError(f"{self._folder}: no known layout; it holds {names[:8]}. Expected SPLIT/CLASS/*.jpg, "
                          "DIV2K's, NYUv2's, images alone, or --pairs or --stereo")

    def _classes(self):
        # Folders that hold images are the classes; otherwise they are the splits.
        above = {"": "train"}
        if not any(self._images(name) for name in self._folders("")):
            above = {name: SPLIT_NAMES.get(name, name) for name in self._folders("")}
        self.classes = sorted({name for split in above for name in self._folders(split)})
        numbers = {name: number for number, name in enumerate(self.classes)}
        for folder, split in above.items():
            for name in self._folders(folder):
                found = self._images(_join(folder, name))
                if not found:
                    raise RecordError(f"{self._path(_join(folder, name))}: no images in it, expected those of the "
                                      f"class {name!r}")
                for file in found:
                    yield split, {"id": f"{name}/{file}", "label": numbers[name],
                                  "files": (_join(folder, name, file),)}

    def _originals(self):
        if self._images(""):
            above = {"": "train"}
        else:
            above = {name: SPLIT_NAMES.get(name, name) for name in self._folders("") if self._images(name)}
        for folder, split in above.items():
            for file in self._images(folder):
                yield split, {"id": _stem(file), "files": (_join(folder, file),)}

    def _div2k(self):
        for part, split in (("train", "train"), ("valid", "validation")):
            small, large = f"DIV2K_{part}_LR_bicubic/X{self._scale}", f"DIV2K_{part}_HR"
            if large in self._folders(""):
                partners = {_stem(file): file for file in self._images(small)}
                for file in self._images(large):
                    partner = partners.get(f"{_stem(file)}x{self._scale}")
                    if partner is None:
                        raise RecordError(f"{self._path(_join(large, file))}: no {_stem(file)}x{self._scale}.png in "
                                          f"{self._path(small)}, expected DIV2K's bicubic track (--scale)")
                    yield split, {"id": _stem(file), "files": (_join(small, partner), _join(large, file))}

    def _nyu(self):
        above = {name: SPLIT_NAMES[name] for name in self._folders("") if name in SPLIT_NAMES} or {"": "train"}
        for folder, split in above.items():
            names = self._folders(folder)
            if "rgb" in names and "depth" in names:
                yield from self._named_alike(split, folder, ("rgb", "depth"))
                continue
            for scene in names:
                inside = _join(folder, scene)
                depths = {file.removeprefix("sync_depth_"): file for file in self._images(inside)
                          if file.startswith("sync_depth_")}
                # The official files have more images than depths; those without are no pairs.
                for file in self._images(inside):
                    depth = depths.get(_stem(file).removeprefix("rgb_") + ".png")
                    if file.startswith("rgb_") and depth:
                        yield split, {"id": f"{scene}/{_stem(file).removeprefix('rgb_')}",
                                      "files": (_join(inside, file), _join(inside, depth))}

    def _side_by_side(self, folders):
        """--pairs and --stereo: wherever the first folder is found, down to where images are."""
        found = list(self._above(folders[0], ""))
        if not found:
            raise RecordError(f"{self._folder}: no folder {folders[0]!r} in it or below; it holds {self._list('')[:8]}")
        for above in found:
            yield from self._named_alike(SPLIT_NAMES.get(above.split("/")[0], "train"), above, folders)

    def _above(self, wanted, folder):
        """Folders in which the path `wanted` is a folder."""
        if self._is_folder(folder, wanted):
            yield folder
            return
        for name in self._folders(folder):
            yield from self._above(wanted, _join(folder, name))

    def _is_folder(self, folder, path):
        for part in path.strip("/").split("/"):
            if part not in self._folders(folder):
                return False
            folder = _join(folder, part)
        return True

    def _named_alike(self, split, above, folders):
        """Files of one name, endings aside, in each folder; a third folder may lack some."""
        columns = [{_stem(file): _join(above, folder, file) for file in self._images(_join(above, folder))}
                   for folder in folders]
        first, second = columns[:2]
        alone = sorted(set(first) ^ set(second))
        if alone:
            raise RecordError(f"{self._path(above)}: {len(alone)} files have no partner of the same name in "
                              f"{folders[0]} and {folders[1]}, such as {alone[:3]}")
        prefix = "/".join(part for part in above.split("/") if part not in SPLIT_NAMES)
        for stem in sorted(first):
            files = tuple(column[stem] for column in columns if stem in column)
            yield split, {"id": _join(prefix, stem), "files": files}

    def _listed(self, lists):
        """--list SPLIT=FILE: which of the found ones, by the left file, endings aside (KITTI is PNG, its lists JPEG)"""
        found = {os.path.splitext(item["files"][0])[0]: item for items in self._items.values() for item in items}
        splits = {}
        for argument in lists:
            split, equals, path = argument.partition("=")
            if not equals or not path:
                raise RecordError(f"--list {argument!r}: expected SPLIT=FILE")
            lines = storage.read_bytes(path).decode("utf-8").split("\n")
            for number, line in enumerate(lines, 1):
                if line.strip():
                    item = found.get(os.path.splitext(line.split()[0])[0])
                    if item is None:
                        raise RecordError(f"{path}, line {number}: {line.split()[0]} is not in {self._folder}")
                    splits.setdefault(split, []).append(item)
        return splits

    def _path(self, inside):
        return storage.join(self._folder, *inside.split("/")) if inside else self._folder

    def _list(self, folder):
        """-> names in a folder, "" being the whole one"""
        if folder not in self._listings:
            self._listings[folder] = storage.list_names(self._path(folder))
        return self._listings[folder]

    def _folders(self, folder):
        def is_folder(name):
            if storage.is_remote(self._folder):   # a listing does not tell; files have endings
                return "." not in name
            return not name.startswith(".") and os.path.isdir(self._path(_join(folder, name)))

        return [name for name in self._list(folder) if is_folder(name)]

    def _images(self, folder):
        names = [name for name in self._list(folder) if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(_OTHER_IMAGES):
                raise RecordError(f"{self._path(_join(folder, name))}: expected one of the kinds {IMAGES}; convert it")
        return [name for name in names if name.lower().endswith(IMAGES)]


def _join(*parts):
    return "/".join(part for part in parts if part)


def _stem(file):
    return os.path.splitext(file)[0]
