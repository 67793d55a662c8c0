"""What is at rest: class schemas, label maps, label files, ledger, workspace, layouts, budgets."""
