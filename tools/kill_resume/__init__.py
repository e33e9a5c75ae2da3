"""Parts of `check_kill_resume.py`."""
