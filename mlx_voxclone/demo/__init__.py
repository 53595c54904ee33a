"""The page to listen on (`demo/app.py`): what is given to it, the models behind it, its server and its files."""
