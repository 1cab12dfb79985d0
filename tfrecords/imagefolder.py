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

What a file is, its content says, whatever its ending. JPEG, PNG, GIF, BMP and WebP are read; an image of another kind,
a link that leads nowhere and an image outside its class's folder are items that cannot be used (--skip-bad N). What is
no image is passed over, and so is what systems leave behind (Thumbs.db, __MACOSX, names that begin with a dot): a line
says what. Folders inside a class's folder belong to that class.
"""

import os
import sys
import unicodedata

from tfhf.data import storage
from tfhf.data.image_records import image_depth, image_label, image_pair, stereo
from tfhf.data.schema import IMAGE_DEPTH, IMAGE_LABEL, IMAGE_PAIR, STEREO, RecordError
from tfhf.data.sources import read_source
from tfhf.data.writing import Dataset, listing_sha256
from tfrecords.audiofolder import SPLIT_NAMES, refuse_double_ids
from tfrecords.pictures import Pictures, check_kind, is_utf8, join

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
    dataset = ImageFolder(arguments.folder, layout=arguments.layout, pairs=arguments.pairs, stereo=arguments.stereo,
                          lists=arguments.list, scale=arguments.scale, depth_scale=arguments.depth_scale,
                          disparity_scale=arguments.disparity_scale, licence=arguments.licence, origin=arguments.origin)
    for line in dataset.found():
        print(f"imagefolder: {line}", file=sys.stderr, flush=True)
    return dataset


class ImageFolder(Dataset):
    """See the module's docstring. Folders are listed when this is made; images are read by `load`."""

    name = "imagefolder"

    def __init__(self, folder, *, layout=None, pairs=None, stereo=None, lists=(), scale=4, depth_scale=0.001,
                 disparity_scale=1 / 256, licence="unknown", origin=""):
        self.folder = self._folder = os.fspath(folder)
        self._scale = scale
        self._depth_scale, self._disparity_scale = depth_scale, disparity_scale
        self.licence, self.origin, self.classes = licence, origin, None
        self._files, self._left_out = Pictures(self._folder), set()
        if not self._files.names(""):
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
            raise RecordError(f"{self._folder}: no images in layout {self._layout}; it holds {self._holds()}")
        for split, items in self._items.items():
            refuse_double_ids(self._folder, split, items)

    def splits(self):
        return tuple(self._items)

    def found(self):
        """-> lines for a person: the layout and what was passed over."""
        counts = ", ".join(f"{split} {len(items)}" for split, items in self._items.items())
        classes = f", {len(self.classes)} classes" if self.classes else ""
        lines = [f"layout {self._layout}{classes}; {counts}"]
        for split, items in self._items.items():
            missing = sorted(set(self.classes or ()) - {item["id"].split("/")[0] for item in items})
            if missing:
                lines.append(f"{split} has no image of {_some(missing, 'class', 'classes')}")
        if self._left_out:
            lines.append(f"left out {_some(self._left_out, 'image without its partner', 'images without partners')}")
        passed_over = sorted(self._files.passed_over)
        if passed_over:
            some = _some(passed_over, 'file or folder', 'files and folders')
            lines.append(f"passed over {some}: they hold no pictures")
        return lines

    def options(self, split):
        options = {"layout": self._layout, "listing_sha256": listing_sha256(
            (item["id"], *item["files"], str(item.get("label", "")), *["unusable"] * ("problem" in item))
            for item in self._items[split])}
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

    def sources(self, item):
        if self._files.unreadable.intersection(item["files"]):
            return []
        return [self._path(file) for file in item["files"]]

    def load(self, item):
        names = self.sources(item)
        files = [read_source(name) for name in names]
        for data, name in zip(files, names):
            check_kind(data, name)
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
        files = self._files
        if any(name.startswith("DIV2K_") and name.endswith("_HR") for name in files.names("")):
            return "div2k"
        if any(True for _ in self._nyu()):
            return "nyu"
        above = files.folders("")
        direct = [name for name in above if files.images(name)]
        deeper = [name for name in above if files.any_below(name)]
        if files.images("") and (direct or deeper):
            self._refuse_beside(files.images("")[0], direct or deeper)
        if files.images(""):
            return "originals"
        if deeper and any(name in SPLIT_NAMES for name in (*direct, *deeper)):
            for name in direct:   # beside SPLIT/CLASS/*.jpg
                self._refuse_beside(join(name, files.images(name)[0]), [join(deeper[0], files.folders(deeper[0])[0])])
            return "classes"
        if any(name in SPLIT_NAMES for name in direct):
            return "originals"
        if direct or deeper:
            return "classes"
        raise RecordError(f"{self._folder}: no known layout; it holds {self._holds()}. Expected SPLIT/CLASS/*.jpg, "
                          "DIV2K's, NYUv2's, images alone, or --pairs or --stereo")

    def _refuse_beside(self, image, folders):
        if image in self._files.unreadable:   # a link that should lead to a folder, perhaps
            raise RecordError(self._files.problems[image])
        raise RecordError(f"{self._path(image)}: images beside folders of images, {folders[:3]}; expected --layout "
                          "originals or classes, or that file in another place")

    def _classes(self):
        """A folder of images is a class, and what is below it belongs to it; folders of such folders are the splits."""
        files, above = self._files, {"": "train"}
        deeper = [name for name in files.folders("") if files.any_below(name)]
        if any(name in SPLIT_NAMES for name in deeper) or not any(files.images(name) for name in files.folders("")):
            named = {name: SPLIT_NAMES.get(name, name) for name in files.folders("")}
            above = {name: split for name, split in named.items()
                     if name in SPLIT_NAMES or name in deeper or files.images(name)}
            files.passed_over |= set(named) - set(above)
        self.classes = sorted({name for split in above for name in files.folders(split)})
        self._check_class_names()
        numbers = {name: number for number, name in enumerate(self.classes)}
        for file in files.images("") if "" not in above else ():
            yield from self._without_class(next(iter(above.values())), file)
        for folder, split in above.items():
            if not files.folders(folder) and not files.images(folder):
                raise RecordError(f"{self._path(folder)}: no images in it, expected folders of classes")
            for file in files.images(folder):
                yield from self._without_class(split, join(folder, file))
            for name in files.folders(folder):
                found = list(files.below(join(folder, name)))
                if not found:
                    raise RecordError(f"{self._path(join(folder, name))}: no images in it, expected those of the "
                                      f"class {name!r}")
                for file in found:
                    inside = file.removeprefix(folder + "/") if folder else file
                    yield split, self._item(inside, (file,), label=numbers[name])

    def _without_class(self, split, file):
        self._files.problems.setdefault(file, f"{self._path(file)}: an image beside the folders of classes, expected "
                                              "it in the folder of its class")
        yield split, self._item(file, (file,), label=-1)

    def _check_class_names(self):
        forms = {}
        for name in self.classes:
            if not is_utf8(name):
                raise RecordError(f"{self._folder}: the folder {name!r} has a name that is not UTF-8: rename it")
            other = forms.setdefault(unicodedata.normalize("NFC", name), name)
            if other != name:
                raise RecordError(f"{self._folder}: two folders of classes are called {name!r}, in two forms of "
                                  "Unicode, composed and decomposed letters; expected one of them")

    def _item(self, name, files, **more):
        """An item; one of whose files has a problem cannot be used, which its "problem" says."""
        problems = [self._files.problems[file] for file in files if file in self._files.problems]
        safe = name.encode("utf-8", "backslashreplace").decode("utf-8")
        return {"id": safe, "files": files, **more, **({"problem": problems[0]} if problems else {})}

    def _originals(self):
        files = self._files
        if files.images(""):
            above = {"": "train"}
        else:
            above = {name: SPLIT_NAMES.get(name, name) for name in files.folders("") if files.images(name)}
        for folder, split in above.items():
            for file in files.images(folder):
                yield split, self._item(_stem(file), (join(folder, file),))
        files.passed_over |= {join(folder, name) for folder in ("", *above) for name in files.folders(folder)
                              if join(folder, name) not in above}

    def _div2k(self):
        for part, split in (("train", "train"), ("valid", "validation")):
            small, large = f"DIV2K_{part}_LR_bicubic/X{self._scale}", f"DIV2K_{part}_HR"
            if large in self._files.folders(""):
                partners = self._by_stem(small)
                for file in self._files.images(large):
                    partner = partners.get(f"{_stem(file)}x{self._scale}")
                    if partner is None:
                        raise RecordError(f"{self._path(join(large, file))}: no {_stem(file)}x{self._scale}.png in "
                                          f"{self._path(small)}, expected DIV2K's bicubic track (--scale)")
                    yield split, self._item(_stem(file), (partner, join(large, file)))

    def _nyu(self):
        above = {name: SPLIT_NAMES[name] for name in self._files.folders("") if name in SPLIT_NAMES} or {"": "train"}
        for folder, split in above.items():
            names = self._files.folders(folder)
            if "rgb" in names and "depth" in names:
                yield from self._named_alike(split, folder, ("rgb", "depth"))
                continue
            for scene in names:
                inside = join(folder, scene)
                depths = {file.removeprefix("sync_depth_"): file for file in self._files.images(inside)
                          if file.startswith("sync_depth_")}
                # The official files have more images than depths; those without are no pairs.
                for file in self._files.images(inside) if depths else ():
                    depth = depths.pop(_stem(file).removeprefix("rgb_") + ".png", None)
                    if file.startswith("rgb_") and depth:
                        yield split, self._item(f"{scene}/{_stem(file).removeprefix('rgb_')}",
                                                (join(inside, file), join(inside, depth)))
                    elif not file.startswith("sync_depth_"):
                        self._left_out.add(join(inside, file))
                self._left_out |= {join(inside, file) for file in depths.values()}

    def _side_by_side(self, folders):
        """--pairs and --stereo: wherever the first folder is found, down to where images are."""
        found = list(self._above(folders[0], ""))
        if not found:
            raise RecordError(f"{self._folder}: no folder {folders[0]!r} in it or below; it holds {self._holds()}")
        for above in found:
            yield from self._named_alike(SPLIT_NAMES.get(above.split("/")[0], "train"), above, folders)

    def _above(self, wanted, folder):
        """Folders in which the path `wanted` is a folder."""
        if self._is_folder(folder, wanted):
            yield folder
            return
        for name in self._files.folders(folder):
            yield from self._above(wanted, join(folder, name))

    def _is_folder(self, folder, path):
        for part in path.strip("/").split("/"):
            if part not in self._files.folders(folder):
                return False
            folder = join(folder, part)
        return True

    def _named_alike(self, split, above, folders):
        """Files of one name, endings aside, in each folder; a third folder may lack some."""
        columns = [self._by_stem(join(above, folder)) for folder in folders]
        first, second = columns[:2]
        alone = sorted(set(first) ^ set(second))
        if alone:
            raise RecordError(f"{self._path(above)}: {len(alone)} files have no partner of the same name in "
                              f"{folders[0]} and {folders[1]}, such as {alone[:3]}")
        prefix = "/".join(part for part in above.split("/") if part not in SPLIT_NAMES)
        for stem in sorted(first):
            files = tuple(column[stem] for column in columns if stem in column)
            yield split, self._item(join(prefix, stem), files)

    def _by_stem(self, folder):
        """{name without its ending: path} of the images in a folder"""
        found = {}
        for file in self._files.images(folder):
            other = found.setdefault(_stem(file), join(folder, file))
            if other != join(folder, file):
                raise RecordError(f"{self._path(join(folder, file))}: {self._path(other)} has the same name but for "
                                  "its ending, expected one image of each name")
        return found

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
        return self._files.path(inside)

    def _holds(self):
        return self._files.names("")[:8]


def _stem(file):
    return os.path.splitext(file)[0]


def _some(names, one, several, most=5):
    """The first of some names, after how many there are"""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} {one if len(names) == 1 else several}, {', '.join(sorted(names)[:most])}{more}"
