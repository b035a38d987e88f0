"""Scores: what each weight is ranked by, from the weights, their inputs or a loss.

A `Score` maps a tree to a score for each weight, by the path of its leaf; the largest are kept.
Any score goes with any allocation, pattern and number of rounds of `prune`.
"""

from wlab.pruning.scores.flow import synflow as synflow
from wlab.pruning.scores.gradients import fisher as fisher
from wlab.pruning.scores.gradients import grasp as grasp
from wlab.pruning.scores.gradients import snip as snip
from wlab.pruning.scores.gradients import taylor as taylor
from wlab.pruning.scores.inputs import wanda as wanda
from wlab.pruning.scores.score import Score as Score
from wlab.pruning.scores.score import refuse_nan as refuse_nan
from wlab.pruning.scores.score import scored as scored
from wlab.pruning.scores.weights import lamp as lamp
from wlab.pruning.scores.weights import magnitude as magnitude
from wlab.pruning.scores.weights import random as random
