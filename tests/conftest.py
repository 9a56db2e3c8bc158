import os

# As the command does, before PyTorch is loaded: the tests share the processors with processes they start.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from hypothesis import settings

# How long an example takes says nothing on a machine that does other work too.
settings.register_profile("onstream", deadline=None, max_examples=60)
settings.load_profile("onstream")
