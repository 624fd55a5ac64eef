"""What the pytest plugin is made of.

``options``   the command line and the ini file
``recorder``  records tests and fails those that exceed a limit
``limits``    what is allowed, and what to say when it was exceeded
``summary``   the report at the end
``sizes``     bytes as people write and read them
"""
