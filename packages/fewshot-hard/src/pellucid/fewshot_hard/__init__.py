"""Find the few-shot tasks that classifiers fail on, in any pool of images, and keep them (thesis chapter 4)."""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports

if TYPE_CHECKING:
    from .pools import Pool as Pool
    from .tasks import Task as Task

__getattr__, __dir__ = lazy_exports(__name__, {"Pool": "pools", "Task": "tasks"})
