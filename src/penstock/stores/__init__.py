"""Places that hold objects: what each is, how it is listed, how tickets are minted. Bulk bytes go through `wire`."""
