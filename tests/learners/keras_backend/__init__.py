"""The Keras learner on the backend that KERAS_BACKEND names; `test_keras.py` runs this in a process for each."""
