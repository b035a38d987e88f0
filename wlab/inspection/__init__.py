"""What is in a tree of weights, from listings and arrays; nothing here needs JAX."""

from wlab.inspection.entry import Entry as Entry
from wlab.inspection.report import report as report
from wlab.inspection.stats import LeafStats as LeafStats
from wlab.inspection.stats import leaf_stats as leaf_stats
from wlab.inspection.stats import merged as merged
