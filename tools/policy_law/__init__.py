"""A problem small enough to be listed, for checks of policy-gradient methods against exact laws."""
