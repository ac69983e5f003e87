"""Real brokers for tests, all behind one small interface: see `base.Broker`."""
