"""What the sandbox remembers: the account with its jobs and credits, uploads, and the files of both."""
