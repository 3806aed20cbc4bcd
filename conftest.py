"""One torch thread for the tests: tiny models only lose by more, and two cores are soon oversubscribed."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
