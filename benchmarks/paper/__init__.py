"""The paper's Tables 1 to 7 and Figure 1 as data, our column beside them, and the commands that measure it."""
