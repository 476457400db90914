"""A tracking run for tests, which keeps what stages give to it."""

from ltd.tracking import StageRun


class NotedRun(StageRun):
    """Keeps metrics, the last of each, and JSON files by their names."""

    def __init__(self):
        super().__init__()
        self.values, self.files = {}, {}

    def metrics(self, values, step=None):
        self.values |= values

    def json(self, values, name):
        self.files[name] = values
