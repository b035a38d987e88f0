"""Calibration: what weights get to see, streamed over batches of a user's own data."""

from wlab.calibration.collecting import Collected as Collected
from wlab.calibration.collecting import collect as collect
from wlab.calibration.collecting import merged as merged
from wlab.calibration.statistics import Gram as Gram
from wlab.calibration.statistics import Squares as Squares
from wlab.calibration.statistics import absmax as absmax
from wlab.calibration.statistics import gram as gram
from wlab.calibration.statistics import squares as squares
