"""DINO (Caron et al. 2021) on clips: every frame is an image, and nothing is tracked or masked.

Each pair of a teacher's global view and another view of the student has a cross-entropy.
"""

from torch import Tensor

from training.methods.base import Views
from training.methods.student_teacher import StudentTeacher, TeacherOutput, encode_views
from training.schedules import Progress


class Dino(StudentTeacher):
    """DINO; with loss.reduction=pairs, as the preset `dino` has it, the released loss."""

    def teacher_forward(self, views: Views, now: Progress) -> tuple[Tensor, None]:
        """Return the teacher's CLS tokens; there are no masks."""
        return self.encode_whole(views), None

    def encode_student(self, clips: Tensor, targets: TeacherOutput) -> Tensor:
        """Return the student's CLS tokens of the clips as they are, as one view."""
        return encode_views(self.student.backbone, clips[None])
