"""The admin page: where each study is, and whether the PACS really got its result."""
