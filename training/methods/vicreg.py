"""VICReg (Bardes et al. 2022) on clips: two views alike, every dimension used, none redundant."""

from training.config.train import TrainConfig
from training.losses.vicreg import vicreg_terms
from training.methods.base import StepOutput, Targets, Views
from training.methods.one_network import OneNetwork, encode_views, token_metrics
from training.models.projection_heads import Projector
from wtours.errors import UsageError


class Vicreg(OneNetwork):
    """VICReg; the frames of clips are independent images."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        if config.optim.global_batch_size * config.data.clip_length < 2:
            raise UsageError(
                "method=vicreg needs two images in a step, for their variance: raise "
                "optim.global_batch_size or data.clip_length"
            )

    @classmethod
    def build_head(cls, config: TrainConfig, width: int) -> Projector:
        """Return VICReg's projector (expander)."""
        model, out_dim = config.model, config.vicreg.output_dim
        return Projector(
            width, (model.head_hidden_dim,) * 2, out_dim, batch_norm=model.head_batch_norm
        )

    def forward(self, views: Views, targets: Targets) -> StepOutput:
        """Return the weighted sum of the three terms over the frames of all ranks' clips."""
        vicreg = self.config.vicreg
        tokens = encode_views(self.student, views)
        # A call for each view: both released codes normalize the views on their own.
        terms = vicreg_terms(self.student.head(tokens[0]), self.student.head(tokens[1]))
        variance = terms.variance / 2 if vicreg.halve_variance else terms.variance
        loss = (
            vicreg.invariance_weight * terms.invariance
            + vicreg.variance_weight * variance
            + vicreg.covariance_weight * terms.covariance
        )
        parts = {
            "loss_invariance": terms.invariance.detach(),
            "loss_variance": terms.variance.detach(),
            "loss_covariance": terms.covariance.detach(),
        }
        return StepOutput(loss, parts | token_metrics(tokens, targets))
