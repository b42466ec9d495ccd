"""One file per figure, with what it draws and its caption."""
