"""LitServe: a request is JSON with the ids as base64 of little-endian int64; so is the answer, of float32.

Run it: python litserve_app.py PORT WORKERS
"""

import base64
import sys

import litserve
import numpy as np
from network import COLUMNS, Predictor


class API(litserve.LitAPI):
    """One batch of candidates a request. LitServe takes JSON or forms; base64 spares it the parsing of numbers."""

    def setup(self, device):
        self.predictor = Predictor()

    def decode_request(self, request):
        return np.frombuffer(bytearray(base64.b64decode(request["ids"])), np.int64).reshape(-1, COLUMNS)

    def predict(self, ids):
        return self.predictor(ids)

    def encode_response(self, output):
        return {"label": base64.b64encode(output.tobytes()).decode()}


if __name__ == "__main__":
    server = litserve.LitServer(API(), accelerator="cpu", workers_per_device=int(sys.argv[2]))
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error")
