"""Local copies of published data sets, as they lie on disk: Waterbirds, ImageNet, ImageNet-Segmentation."""

import csv
from pathlib import Path
from typing import Any

from pellucid.core.errors import DataError
from pellucid.core.outfolder import write_file
from pellucid.core.progress import progress

WATERBIRDS = "metadata.csv"
SYNSETS = "LOC_synset_mapping.txt"
_SPLITS = ("train", "validation", "test")
_BIRDS = ("landbird", "waterbird")
_PLACES = ("land", "water")


def waterbirds_rows(table: Path) -> list[dict[str, str]]:
    """The rows of Waterbirds' metadata.csv (Sagawa et al. 2020): `file`, `split`, `label`, `place` and `group`.

    Raises:
        DataError: a column is missing, or a number is none of the published ones.
    """
    try:
        with table.open(newline="", encoding="utf-8") as file:
            found = list(csv.DictReader(file))
    except (OSError, ValueError) as error:
        raise DataError(f"{table} cannot be read ({type(error).__name__}): download it again") from error
    rows = []
    for line, row in enumerate(found, 2):
        try:
            bird, place = _BIRDS[int(row["y"])], _PLACES[int(row["place"])]
            split = _SPLITS[int(row["split"])]
            rows.append(
                {
                    "file": row["img_filename"],
                    "split": split,
                    "label": bird,
                    "place": place,
                    "group": f"{bird} on {place}",
                }
            )
        except (LookupError, ValueError, TypeError) as error:
            raise DataError(
                f"{table}, line {line}: not Waterbirds' (img_filename, y 0 or 1, split 0 to 2, place 0 or 1)"
            ) from error
    return rows


def synset_names(folder: Path) -> dict[str, str]:
    """ImageNet's names of synsets, from LOC_synset_mapping.txt in the folder or up to three above it; empty if none.

    Raises:
        DataError: a line is no synset with its names.
    """
    home = next((one for one in (folder, *folder.resolve().parents[:3]) if (one / SYNSETS).is_file()), None)
    if home is None:
        return {}
    names = {}
    for number, line in enumerate((home / SYNSETS).read_text("utf-8").splitlines(), 1):
        synset, _, said = line.strip().partition(" ")
        if line.strip() and not said:
            raise DataError(f"{home / SYNSETS}, line {number}: no synset with its names: download it again")
        if said:
            names[synset] = said.split(",")[0]
    return names


def unpack_segmentation(mat: Path, out: Path) -> int:
    """Write ImageNet-Segmentation's pictures and masks (Guillaumin et al. 2014) as `images/*.png` and `masks/*.png`.

    Args:
        mat: `gtsegs_ijcv.mat`, an HDF5 file.
        out: a folder.

    Returns:
        How many there are.

    Raises:
        DataError: h5py is not installed, or the file is another one.
    """
    import io

    import numpy as np
    from PIL import Image

    try:
        import h5py
    except ImportError as error:
        raise DataError(
            "reading gtsegs_ijcv.mat needs h5py: pip install 'pellucid-vit-components[segmentation]'"
        ) from error

    def png(values: Any) -> bytes:
        file = io.BytesIO()
        Image.fromarray(values).save(file, "PNG")
        return file.getvalue()

    try:
        with h5py.File(mat, "r") as file, progress("Unpacking", len(file["value/img"])) as advance:
            count = len(file["value/img"])
            for number in range(count):
                # MATLAB's arrays are stored by columns; a mask stands in a cell of its own.
                picture = np.asarray(file[file["value/img"][number, 0]]).transpose(2, 1, 0)
                mask = np.asarray(file[file[file["value/gt"][number, 0]][0, 0]]).T
                write_file(out / "images" / f"{number:05d}.png", png(picture.astype(np.uint8)))
                write_file(out / "masks" / f"{number:05d}.png", png((mask > 0).astype(np.uint8) * 255))
                advance(1)
    except (OSError, LookupError, ValueError, TypeError) as error:
        raise DataError(f"{mat} is not gtsegs_ijcv.mat ({type(error).__name__}): download it again") from error
    return count
