"""Which handwritten digits a prediction rests on, and whether influence functions say so rightly."""

from pellucid.core.report import Section
from pellucid.influence.compare import compare, test_gradients
from pellucid.influence.figures import agreement_table, errors_by_size, pictures, scatter, summary
from pellucid.influence.jobs import Problem, accuracy, draw_groups, predictions, trained
from pellucid.influence.retraining import objective_of
from pellucid.influence.scores import point_influence

from ..chapter import Chapter, Setting

FRACTIONS = (0.1, 0.2, 0.3, 0.4)
COUNT = (4, 12)  # groups of each size: in the tour, and with --full
POINTS = 1000  # training digits, so that all of it takes well under a minute


def run(setting: Setting) -> Chapter:
    """Train logistic regression on digits, remove coherent groups, compare three estimates with retraining."""
    problem = Problem("digits", "logistic", l2=0.01, limit=POINTS, seed=setting.seed)
    job, _ = trained(problem, test_point="highest-loss")
    assert job.tests is not None
    test = job.tests[0]
    objective = objective_of(job)
    points = point_influence(objective, objective.theta, test_gradients(job, objective, objective.theta))
    changes = points.change[:, 0]
    ranked = changes.argsort(descending=True, stable=True).tolist()
    shown = pictures(job.data, test, int(predictions(job)[test]), ranked, changes)
    groups = draw_groups(job.data, "coherent", FRACTIONS, setting.of(COUNT), setting.seed)
    found = compare(job, groups, setting.out / "ledger", seed=setting.seed, workers=setting.workers)
    text = [
        f"A logistic regression reads {100 * (accuracy(job) or 0):.1f} % of the test digits rightly. Which training "
        f"digits does its worst mistake, test digit {test}, rest on? Influence functions say, without retraining, what "
        "removing each would change.",
        f"They are checked on {len(groups)} coherent groups, of one digit each as far as there are enough, of "
        f"{100 * FRACTIONS[0]:.0f} to {100 * FRACTIONS[-1]:.0f} % of the data: the model is retrained without each, to "
        "a gradient norm under 1e-10.",
        summary(found),
    ]
    section = Section(
        "Influence: which training data does a prediction rest on?",
        text,
        [shown, scatter(found), errors_by_size(found)],
        [agreement_table(found)],
    )
    results = found.results() | {"test": test, "ranking": ranked[:10], "accuracy": accuracy(job)}
    ranks = {method: found.agreement(method).spearman for method in ("first", "second")}
    finding = (
        "What a mistake rests on can be told without retraining: of "
        f"{len(found.records)} removals of digits, influence functions rank the effects as retraining does with a "
        f"correlation of {ranks['first']} (first order) and {ranks['second']} (second order)."
    )
    return Chapter(finding, section, results)
