"""Calibration: what weights get to see, streamed over batches of a user's own data."""

from wlab.calibration.by_inputs import Batches as Batches
from wlab.calibration.by_inputs import Report as Report
from wlab.calibration.by_inputs import by_inputs as by_inputs
from wlab.calibration.by_inputs import refuse_bad_batches as refuse_bad_batches
from wlab.calibration.collecting import Collected as Collected
from wlab.calibration.collecting import collect as collect
from wlab.calibration.collecting import merged as merged
from wlab.calibration.compensating import Compensated as Compensated
from wlab.calibration.compensating import RowGrid as RowGrid
from wlab.calibration.compensating import RowGrids as RowGrids
from wlab.calibration.compensating import compensated as compensated
from wlab.calibration.finished import Finished as Finished
from wlab.calibration.finished import Told as Told
from wlab.calibration.second_order import damped_factor as damped_factor
from wlab.calibration.second_order import energy as energy
from wlab.calibration.second_order import inverse_factor as inverse_factor
from wlab.calibration.second_order import refuse_bad_damping as refuse_bad_damping
from wlab.calibration.statistics import Gram as Gram
from wlab.calibration.statistics import Squares as Squares
from wlab.calibration.statistics import Sums as Sums
from wlab.calibration.statistics import absmax as absmax
from wlab.calibration.statistics import gram as gram
from wlab.calibration.statistics import mean as mean
from wlab.calibration.statistics import squares as squares
