"""Weight decay that means what it says: by rules, on schedules, for any optimizer."""

from wlab.decay.anchor import TowardState as TowardState
from wlab.decay.anchor import toward as toward
from wlab.decay.rates import Rate as Rate
from wlab.decay.rates import RateRules as RateRules
from wlab.decay.rates import normalized as normalized
from wlab.decay.recipes import adagrad as adagrad
from wlab.decay.recipes import adam as adam
from wlab.decay.recipes import adamw as adamw
from wlab.decay.recipes import lion as lion
from wlab.decay.recipes import momentum as momentum
from wlab.decay.recipes import muon as muon
from wlab.decay.recipes import rmsprop as rmsprop
from wlab.decay.recipes import sgd as sgd
from wlab.decay.report import report as report
from wlab.decay.report import underflow as underflow
from wlab.decay.terms import DecayState as DecayState
from wlab.decay.terms import cautious as cautious
from wlab.decay.terms import decoupled as decoupled
from wlab.decay.terms import independent as independent
from wlab.decay.terms import l1 as l1
from wlab.decay.terms import l2 as l2
from wlab.decay.terms import proximal_l1 as proximal_l1
from wlab.decay.terms import scale_by_rules as scale_by_rules
from wlab.decay.terms import soft_threshold as soft_threshold
