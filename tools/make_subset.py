#!/usr/bin/env python3
"""Makes the data set that ships with the trainer: a fixed subset of an archive of an image folder.

    tools/make_subset.py --source ARCHIVE --out FILE [--seed N] [--train N] [--test N]

ARCHIVE is a tar file (plain or compressed) with members <top>/<split>/<class>/<image>. Of every class
the images with the smallest SHA-256 of "<seed>/<path>" are taken, bytes unchanged, names kept; a hash
instead of a random generator, so that any version of Python chooses the same. The result is sorted and
carries no owner and no time, so that equal inputs give equal files.
"""

import argparse
import collections
import hashlib
import io
import sys
import tarfile


def read_images(source):
    """The members of the archive: {(split, class): {path: bytes}}."""
    groups = collections.defaultdict(dict)
    with tarfile.open(source) as archive:
        for member in archive:
            parts = member.name.split("/")
            if member.isfile() and len(parts) >= 3:
                groups[parts[-3], parts[-2]][member.name] = archive.extractfile(member).read()
    return groups


def choose(images, count, seed):
    """The paths of `count` images, whatever their order in the archive is."""
    if len(images) < count:
        raise SystemExit(f"make_subset: {next(iter(images))} and its class are {len(images)} images, "
                         f"expected at least {count}")
    return sorted(images, key=lambda path: hashlib.sha256(f"{seed}/{path}".encode()).digest())[:count]


def write_archive(out, images):
    """A tar file in the order of the paths, xz-compressed if the name says so."""
    mode = "w:xz" if out.endswith(".xz") else "w"
    options = {"preset": 9} if out.endswith(".xz") else {}
    with tarfile.open(out, mode, format=tarfile.USTAR_FORMAT, **options) as archive:
        for path in sorted(images):
            member = tarfile.TarInfo(path)
            member.size = len(images[path])
            member.mode = 0o644
            archive.addfile(member, io.BytesIO(images[path]))


def main():
    parser = argparse.ArgumentParser(description="Take a fixed subset of an archive of an image folder.")
    parser.add_argument("--source", required=True, help="tar archive, <top>/<split>/<class>/<image>")
    parser.add_argument("--out", required=True, help="file to write, .tar or .tar.xz")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=500, help="images of each class (default 500)")
    parser.add_argument("--test", type=int, default=100, help="images of each class (default 100)")
    arguments = parser.parse_args()

    wanted = {"train": arguments.train, "test": arguments.test}
    chosen = {}
    for (split, _), images in sorted(read_images(arguments.source).items()):
        if split in wanted:
            for path in choose(images, wanted[split], arguments.seed):
                chosen[path] = images[path]
    if not chosen:
        sys.exit(f"make_subset: {arguments.source} holds no <split>/<class>/<image> with a split train or test")
    write_archive(arguments.out, chosen)
    print(f"{arguments.out}: {len(chosen)} images, {sum(map(len, chosen.values()))} bytes of image data")


if __name__ == "__main__":
    main()
