"""The work: plan, label, train, evaluate; it reports progress as iterators and never draws it."""
