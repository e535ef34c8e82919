"""Two kinds of target, a task for each, and a data set, as a stranger's package adds them to mtlkit."""

from people_lab import keypoints_kind, keypoints_task, ordinal_kind, ordinal_task, people

__all__ = ["keypoints_kind", "keypoints_task", "ordinal_kind", "ordinal_task", "people"]
