"""refoptim beside other libraries: each module here is imported by its name, and imports the library it is named for.

Nothing is imported by importing this package.
"""
