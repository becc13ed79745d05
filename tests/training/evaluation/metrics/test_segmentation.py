import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import jaccard_score, recall_score

from training.evaluation.metrics.segmentation import confusion_matrix, segmentation_score


def test_a_hand_worked_case():
    truth = np.array([[0, 0, 0, 0], [1, 1, 2, -1]])
    predicted = np.array([[0, 0, 0, 1], [1, 2, 2, 0]])  # the last pixel is not scored

    confusion = confusion_matrix(truth, predicted, num_classes=4)

    assert confusion.tolist() == [[3, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    score = segmentation_score(confusion)
    # 3 of {3 right, 1 missed}; 1 of {1, 1 missed, 1 wrong}; 1 of {1, 1 wrong}; nowhere
    assert score.iou_percent == pytest.approx((75, 100 / 3, 50, None))
    assert score.mean_iou_percent == pytest.approx((75 + 100 / 3 + 50) / 3)
    assert score.mean_accuracy_percent == pytest.approx((75 + 50 + 100) / 3)
    assert score.pixel_accuracy_percent == pytest.approx(100 * 5 / 7)


def test_a_class_that_is_predicted_but_not_there_has_iou_0_and_no_accuracy():
    score = segmentation_score(np.array([[2, 1], [0, 0]]))

    assert score.iou_percent == pytest.approx((200 / 3, 0))
    assert score.mean_iou_percent == pytest.approx(100 / 3)
    assert score.mean_accuracy_percent == pytest.approx(200 / 3)


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth = rng.integers(-1, 11, (5, 40, 60))
    predicted = np.where(
        rng.random(truth.shape) < 0.6, truth.clip(0), rng.integers(0, 11, truth.shape)
    )
    scored = truth >= 0

    confusion = np.sum(
        [
            confusion_matrix(one, other, num_classes=11)
            for one, other in zip(truth, predicted, strict=True)
        ],
        axis=0,
    )

    y, z = truth[scored], predicted[scored]
    assert (confusion == sklearn_confusion(y, z, labels=range(11))).all()
    score = segmentation_score(confusion)
    assert score.mean_iou_percent == pytest.approx(100 * jaccard_score(y, z, average="macro"))
    assert score.mean_accuracy_percent == pytest.approx(100 * recall_score(y, z, average="macro"))
    assert score.pixel_accuracy_percent == pytest.approx(100 * (y == z).mean())
