"""The flights of flights.py, learned as they are sent in, and served meanwhile.

Run it: onstream run examples/flights_live.py; and in another terminal: python examples/send_flights.py
"""

from flights import DeepFM, features

from onstream import SGD, Job, Log, Torch

job = Job(
    stream=Log("models/flights-live.db"),
    features=features,
    learner=Torch(DeepFM, optimizer="adam", lr=1e-3),
    optimizer=SGD(lr=0.02),
    directory="models/flights-live",
    batch_size=32,
)
