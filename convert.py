from mlx_sam2.convert import main

raise SystemExit(main())
