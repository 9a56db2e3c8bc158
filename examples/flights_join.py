"""The flights of flights.py as an airport sees them: departures first, and hours later whether they arrived late.

Run it: onstream run examples/flights_join.py; and in another terminal: python examples/send_departures.py
"""

from flights import DeepFM, features

from onstream import SGD, Feedback, Job, Join, Log, Torch, WhenKnown

stream = Join(
    Log("models/flights-join/departures.db"),
    [
        Feedback(
            Log("models/flights-join/arrivals.db"),
            label="late",
            value="late",
            time="arrived",
            window="12h",
            # An arrival tells both: late or in time. Every flight is predicted when it leaves, which metrics count.
            policy=WhenKnown(measured=1),
        )
    ],
    on="id",
    time="scheduled",
)

job = Job(
    stream=stream,
    features=features,
    learner=Torch(DeepFM, optimizer="adam", lr=1e-3),
    optimizer=SGD(lr=0.02),
    directory="models/flights-join",
    batch_size=32,
)
