"""The search: many trials, of which each may end early, fail, be killed or be resumed without harm to the others."""
