"""Find the few-shot tasks that classifiers fail on, in any pool of images, and keep them (thesis chapter 4)."""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports

if TYPE_CHECKING:
    from .benchmark import build as build
    from .evaluation import Judge as Judge
    from .evaluation import evaluate as evaluate
    from .explain import composition as composition
    from .extraction import extract as extract
    from .images import ImageSet as ImageSet
    from .images import load_images as load_images
    from .meta_training import Episodes as Episodes
    from .meta_training import meta_train as meta_train
    from .pools import Pool as Pool
    from .pools import load_pool as load_pool
    from .pools import save_pool as save_pool
    from .prototypes import accuracy as accuracy
    from .samplers import sample_tasks as sample_tasks
    from .selection import ease as ease
    from .selection import harden as harden
    from .task_files import load_tasks as load_tasks
    from .task_files import save_tasks as save_tasks
    from .tasks import Task as Task

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Episodes": "meta_training",
        "ImageSet": "images",
        "Judge": "evaluation",
        "Pool": "pools",
        "Task": "tasks",
        "accuracy": "prototypes",
        "build": "benchmark",
        "composition": "explain",
        "ease": "selection",
        "evaluate": "evaluation",
        "extract": "extraction",
        "harden": "selection",
        "load_images": "images",
        "load_pool": "pools",
        "load_tasks": "task_files",
        "meta_train": "meta_training",
        "sample_tasks": "samplers",
        "save_pool": "pools",
        "save_tasks": "task_files",
    },
)
