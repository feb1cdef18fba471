"""Confidential post-training and evaluation: jobs over sealed models and data, in a measured process.

`python -m mitai.train --config FILE` runs a worker. A job file (`mitai.train.job`) names capsules, a method and its
hyperparameters; every output is a capsule that belongs to the owners of all inputs.
"""
