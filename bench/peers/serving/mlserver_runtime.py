"""MLServer: a custom runtime for the same network; REST takes JSON (it has no binary extension), gRPC raw tensors."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from network import Predictor


class DeepFMRuntime(MLModel):
    """One input "ids" (rows, columns) int64, one output "label" (rows,)."""

    async def load(self) -> bool:
        self.predictor = Predictor()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        ids = NumpyCodec.decode_input(payload.inputs[0])
        output = NumpyCodec.encode_output("label", self.predictor(ids))
        return InferenceResponse(model_name=self.name, outputs=[output])
