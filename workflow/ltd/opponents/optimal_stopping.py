"""Fitted optimal stopping: what adaptive drafting can attain without clairvoyance, estimated by regression.

One small network regresses what every size adds to the next smaller one, the other what going on adds to
stopping now, backward over the levels (the method of Longstaff and Schwartz for stopping problems).
Differences decide, and they are far less noisy than values: the continuation of the text is the same in both.
"""

from ltd.opponents.cross_fitting import squared_error
from ltd.opponents.stopping import Approach

OPTIMAL_STOPPING = Approach(squared_error, differences=True)
